"""What a client gets of the ASGI messages that are sent."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Client:
    """Collects a response; `got` is the body so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    got: bytes = b""
    ended: bool = False
    pieces: list[bytes] = field(default_factory=list)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        assert not self.ended, "nothing comes behind the end"
        if message["type"] == "http.response.start":
            assert not self.status, "one head"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            assert len(self.headers) == len(message["headers"]), "no header twice"
        else:
            assert self.status, "the head comes first"
            self.got += message.get("body", b"")
            if message.get("body"):
                self.pieces.append(message["body"])
            self.ended = not message.get("more_body", False)

    def seen_by_eventsource(self) -> list[tuple[str, str]]:
        """(id, data) of each event, as a browser makes them of the stream."""
        found, id_ = [], ""
        for block in self.got.decode().split("\n\n"):
            fields = [line.partition(":") for line in block.split("\n")]
            values = [(name, value.removeprefix(" ")) for name, _, value in fields]
            id_ = next((value for name, value in values if name == "id"), id_)
            data = [value for name, value in values if name == "data"]
            if data:
                found.append((id_, "\n".join(data)))
        return found
