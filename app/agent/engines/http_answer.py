"""An HTTP upstream's reply as an Answer, and aiohttp's errors in words."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable

import aiohttp

from app.agent.engines.base import EngineBroken

PASSED_ON = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})
PASSED_ON_PREFIXES = ("x-ratelimit-", "openai-")


class HttpAnswer:
    """A reply whose head is known. aiohttp puts the connection back into its pool when the body's last byte is in."""

    __slots__ = ("_connection", "_protocol", "_read_timeout", "_response", "headers", "is_stream", "status")

    def __init__(self, response: aiohttp.ClientResponse, read_timeout: float) -> None:
        self._response = response
        self._read_timeout = read_timeout  # seconds without a byte
        self.status = response.status
        headers = response.headers
        self.headers = tuple([(name, value) for key, value in headers.items() if _passes(name := key.lower(), value)])
        self.is_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
        protocol = response.connection.protocol if response.connection else None  # None: the whole body is here already
        framed = "content-length" in headers or "transfer-encoding" in headers
        self._connection = protocol
        self._protocol = None if framed else protocol
        if protocol is not None and protocol.closed is not None:
            _tell_of_the_end(protocol.closed, response.content)

    async def read(self) -> bytes:
        try:
            body = await self._response.read()
        except aiohttp.ClientError as error:
            raise EngineBroken(reason(error)) from error
        self._refuse_a_reset_as_the_end()
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        content = self._response.content
        if self._connection is not None:
            self._connection.read_timeout = None  # the silence is watched here
        silence = _Silence(content, self._read_timeout)
        try:
            while data := await silence.broken_by(content.readany()):
                yield data
        except aiohttp.ClientError as error:
            raise EngineBroken(reason(error)) from error
        finally:
            silence.end()
        self._refuse_a_reset_as_the_end()

    async def close(self) -> None:
        self._response.close()  # a connection that is back in the pool stays there

    def _refuse_a_reset_as_the_end(self) -> None:
        """Where only the connection's end ends a body, aiohttp takes a reset for it too."""
        error = None if self._protocol is None else self._protocol.exception()
        if isinstance(error, OSError):
            raise EngineBroken(reason(error))


class _Silence:
    """Breaks off a body that brings no byte for so many seconds, or up to a quarter longer: one timer looks now and then.

    aiohttp's own is set anew for each chunk, which took 7 % of a worker's time under 1,000 streams.
    """

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._content = content
        self._seconds = seconds
        self._since = 0.0  # by the loop's clock; 0 while nobody waits
        self._timer = self._loop.call_later(seconds / 4, self._look)

    async def broken_by(self, chunk: Awaitable[bytes]) -> bytes:
        self._since = self._loop.time()
        data = await chunk
        self._since = 0.0
        return data

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._since and self._loop.time() - self._since >= self._seconds:
            self._content.set_exception(aiohttp.SocketTimeoutError())
        else:
            self._timer = self._loop.call_later(self._seconds / 4, self._look)


def _passes(name: str, value: str) -> bool:
    # Bytes beyond ASCII come as lone surrogates, which no record can hold.
    return (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)) and value.isascii()


def _tell_of_the_end(closed: "asyncio.Future[None]", content: aiohttp.StreamReader) -> None:
    """Has the connection's end break a body that is still read.

    aiohttp 3.14 closes a connection whose chunks have a garbled length and leaves the reader waiting, without a timeout.
    """

    def lost(closed: "asyncio.Future[None]") -> None:
        _note(closed)
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def ended() -> None:  # the connection lives on in the pool, with one callback however often it is used
        closed.remove_done_callback(lost)
        closed.remove_done_callback(_note)
        closed.add_done_callback(_note)

    closed.add_done_callback(lost)
    content.on_eof(ended)


def _note(closed: "asyncio.Future[None]") -> None:
    closed.exception()  # else asyncio logs that nobody asked


def reason(error: BaseException) -> str:
    """An error of aiohttp in a few words, without the address it came from."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case TimeoutError():
            return "no byte in time"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without a reply"
        case aiohttp.ClientPayloadError():
            return "its reply was cut short or is garbled"
        case aiohttp.ClientResponseError():
            return f"its reply is not HTTP ({error.message.partition(chr(10))[0]})"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is refused ({error.certificate_error})"
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorError(os_error=ssl.SSLError() | ConnectionError(errno=None)):
            return f"no TLS with it ({error.os_error!r})"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case OSError(strerror=str(words)):  # name resolution has numbers of its own
            return words
    return str(error)
