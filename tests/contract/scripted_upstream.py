"""An HTTP server for tests: a script decides every byte it sends, when, and how the connection
ends.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

NO_LINGER = struct.pack("ii", 1, 0)  # closing sends a reset


@dataclass
class Exchange:
    """One request as it arrived, and the means to answer it. `connection` numbers the TCP
    connections from 0.
    """

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def reply(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        """A whole reply; header names with _ for -."""
        await self.send(head(status, content_length=str(len(body)), **headers) + body)

    async def stream(self, *chunks: bytes) -> None:
        """The head of an event stream and its first chunks."""
        await self.send(head(200, content_type="text/event-stream", transfer_encoding="chunked"))
        await self.send(*map(chunk, chunks))

    def hang_up(self) -> None:
        """Ends the connection in order."""
        self.writer.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER
        )
        self.writer.transport.abort()

    async def client_is_gone(self) -> None:
        """Waits until the client has closed the connection."""
        with suppress(ConnectionResetError):
            assert await self.reader.read(1) == b"", "the client sent more instead of leaving"
        self.hang_up()


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedUpstream:
    """The n-th request gets the n-th script, those after the last get the last. A script's failure
    fails the test.
    """

    def __init__(
        self, *scripts: Script, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.scripts = scripts
        self._tls = tls
        self._address = address
        self.seen: list[Exchange] = []
        self.connections = 0
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> Self:
        self._server = await asyncio.start_server(self._serve, self._address, port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._address}]" if ":" in self._address else self._address
        self.host = f"{'https' if self._tls else 'http'}://{host}:{self.port}"
        return self

    async def stop(self) -> None:
        """Ends all scripts; raises what went wrong in one."""
        self._server.close()
        for task in self._running:
            task.cancel()
        outcomes = await asyncio.gather(*self._running, return_exceptions=True)
        for failure in outcomes:
            if isinstance(failure, Exception):
                raise failure

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running.add(asyncio.current_task())  # type: ignore[arg-type]
        connection, self.connections = self.connections, self.connections + 1
        try:
            while not writer.transport.is_closing():
                await self._answer(await read_request(connection, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or `stop`: of a cancelled handler asyncio 3.11 logs a trace
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        await self.scripts[min(len(self.seen), len(self.scripts)) - 1](exchange)


async def read_request(
    connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Exchange:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Exchange(method, target, headers, body, connection, reader, writer)


def head(status: int, **headers: str) -> bytes:
    """A reply's head; header names with _ for -."""
    lines = [
        f"HTTP/1.1 {status} Scripted",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def replies(status: int, body: bytes = b"{}", **headers: str) -> Script:
    """A script that gives one whole reply."""

    async def script(exchange: Exchange) -> None:
        await exchange.reply(status, body, **headers)

    return script


def sends(*parts: bytes) -> Script:
    """A script that sends just these bytes and hangs up."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        exchange.hang_up()

    return script


async def resets(exchange: Exchange) -> None:
    exchange.reset()
