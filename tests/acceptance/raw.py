"""Requests as bytes on a connection, for what no HTTP client would send."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from tests.acceptance.asking import CHAT
from tests.acceptance.processes import PATIENCE

BODY = b'{"model":"echo","messages":[{"role":"user","content":"hello"}],"max_tokens":2}'


@dataclass
class Answer:
    """The first response on a connection."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error that is the whole body."""
        document = orjson.loads(self.body)
        assert set(document) == {"error"}
        assert set(document["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = document["error"]
        return error


class Connection:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """Raises IncompleteReadError where the connection ends before the head does."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split()[1]), headers, body)

    async def ended(self) -> bool:
        """Waits for the end of the connection, whatever still comes before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionError:
                return True
        return True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def exchange(port: int, data: bytes) -> Answer:
    """The answer to these bytes on a connection of their own."""
    async with connected(port) as connection:
        await connection.send(data)
        return await connection.answer()


def request(
    path: str | bytes = CHAT,
    body: bytes = BODY,
    *,
    method: str = "POST",
    length: int | None = None,
    **headers: str | bytes,
) -> bytes:
    """A request's bytes; `headers` with _ for -, latin-1. `length`: a content-length that need not
    be the body's.
    """
    path = path.encode() if isinstance(path, str) else path
    lines = [
        b"%s %s HTTP/1.1" % (method.encode(), path),
        b"host: localhost",
        b"content-length: %d" % (len(body) if length is None else length),
    ]
    for name, value in headers.items():
        lines.append(
            name.replace("_", "-").encode()
            + b": "
            + (value.encode("latin-1") if isinstance(value, str) else value)
        )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def in_chunks(*rest: bytes) -> bytes:
    """The head of a body in chunks, and what comes behind it."""
    return (
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode()
        + b"".join(rest)
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
