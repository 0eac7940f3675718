"""A connection to an upstream without a network: the test is the wire."""

import asyncio
from typing import Any

from app.agent.engines.base import Take
from app.agent.engines.http.answer import HttpAnswer
from app.agent.engines.http.connection import Connection

BODY = b'data: {"a":1}\n\n' * 9 + b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
SIZED = OK + JSON + b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = OK + b"content-type:text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"".join(
    b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:8], BODY[8:])
)


class Wire(asyncio.Transport):
    """What the connection does to its transport, and what lies in its pool."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.unsent = 0  # bytes of a request that the upstream has not taken
        self.closed = self.aborted = self.is_paused = False
        self.idle: list[Connection] = []
        self.forgotten: list[Connection] = []
        self.connection = Connection(self)
        self.connection.connection_made(self)

    def put(self, connection: Connection) -> None:
        self.idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self.forgotten.append(connection)

    def write(self, data: Any) -> None:
        self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        self.sent += b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def comes(self, *parts: bytes) -> None:
        """What the upstream sends, each part as it is read; nothing is read in a pause or behind
        the connection's end.
        """
        for part in parts:
            assert not self.is_paused
            if not self.is_closing():
                self.connection.data_received(part)

    async def asked(self) -> "asyncio.Task[HttpAnswer]":
        """A request that has been sent."""
        task = asyncio.create_task(self.connection.ask(b"request"))
        await asyncio.sleep(0)
        return task

    async def answered(self, *parts: bytes) -> HttpAnswer:
        """The answer to a request, of which these parts have come."""
        task = await self.asked()
        self.comes(*parts)
        return await task


async def relayed(answer: HttpAnswer, take: Take) -> "asyncio.Task[None]":
    """A relay that waits for more."""
    task = asyncio.create_task(answer.relay(take))
    await asyncio.sleep(0)
    return task
