"""A client's connection to an application, without a network between them."""

import asyncio
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.gateway.http.asgi import Receive, Scope, Send
from app.gateway.http.connection import Connection

HEAD = b"GET /%d HTTP/1.1\r\nhost: gateway\r\n"


class Wire(asyncio.Transport):
    """What the gateway writes, and whether it has hung up."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.ended = False
        self.reads_no_more = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None:
        self.reads_no_more = False

    def pause_reading(self) -> None:
        self.reads_no_more = True


class Client:
    """A connection to an application that answers when it is told to."""

    def __init__(self, state: ServerState | None = None, **options: Any) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.wire = Wire()
        config = Config(
            self._answer,
            interface="asgi3",
            lifespan="off",
            http=Connection,
            log_config=None,
            **options,
        )
        self._connection = Connection(config, state or ServerState(), {})
        self._connection.connection_made(self.wire)

    async def _answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await self.may_answer.wait()
        await send({"type": "http.response.body", "body": b"k"})

    async def send(self, data: bytes) -> None:
        self._connection.data_received(data)
        await asyncio.sleep(0)

    async def ask(self, number: int) -> None:
        await self.send(HEAD % number + b"\r\n")

    def leave(self) -> None:
        self._connection.connection_lost(None)

    @property
    def error(self) -> Any:
        return orjson.loads(self.wire.written.rpartition(b"\r\n\r\n")[2])["error"]
