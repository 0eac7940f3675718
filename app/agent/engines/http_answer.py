"""An HTTP upstream's reply as an Answer: its connection feeds it, and its reader takes."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from functools import lru_cache
from math import inf
from typing import Protocol

from app.agent.engines.base import EngineBroken, Take
from app.agent.engines.http_errors import UpstreamError
from app.agent.engines.http_unpack import Unpacker

PASSED_ON = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})
PASSED_ON_PREFIXES = ("x-ratelimit-", "openai-")
MOST_KEPT = 256 * 1024  # bytes that wait for a reader before the upstream has to
MOST_UNPACKED = 256 * 1024 * 1024  # of a reply that is read whole and came compressed

Fields = Iterable[tuple[bytes, bytes]]


class Source(Protocol):
    """Where the body comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class HttpAnswer:
    """A reply whose head is known. Its connection may be in the pool again before the body is read."""

    __slots__ = (
        "_ended", "_error", "_failure", "_kept", "_kept_bytes", "_most_kept", "_pause", "_source", "_take", "_unpacker",
        "_waiter", "headers", "is_framed", "is_stream", "status",
    )  # fmt: skip

    def __init__(self, source: Source, status: int, fields: Fields) -> None:
        """Raises UpstreamError for a coding of the body that is not known."""
        self.status = status
        self.is_stream = self.is_framed = False
        self._unpacker: Unpacker | None = None
        self.headers = self._passed_on(fields)
        self._source: Source | None = source
        self._take: Take | None = None
        self._pause: Awaitable[None] | None = None
        self._kept: list[bytes] = []  # not taken yet
        self._kept_bytes = 0
        self._most_kept: float = MOST_KEPT
        self._ended = False
        self._error: UpstreamError | None = None  # of the upstream
        self._failure: Exception | None = None  # of the reader
        self._waiter: asyncio.Future[None] | None = None

    def _passed_on(self, fields: Fields) -> tuple[tuple[str, str], ...]:
        """The headers that a client is to see; notes what the others say of the body."""
        passed = []
        for raw_name, raw_value in fields:
            name = _wanted(raw_name)
            if name:
                value = raw_value.decode("latin-1").strip()
                if name in _FRAMING:
                    self._read_framing(name, value.lower())
                elif value.isascii():
                    passed.append((name, value))
                    if name == "content-type":
                        self.is_stream = value.lower().startswith("text/event-stream")
        return tuple(passed)

    def _read_framing(self, name: str, value: str) -> None:
        if name == "content-encoding":
            self._unpacker = Unpacker(value) if value not in ("", "identity") else None
        elif name == "transfer-encoding" and value not in ("chunked", "identity"):
            raise UpstreamError(f"its reply's transfer-encoding is not known ({value})")
        else:
            self.is_framed = value != "identity"

    def feed(self, data: bytes) -> bool:
        """The connection's: the next bytes of the body. True: no more for now, please, until `resume`."""
        take = self._take
        if take is None:
            return self._keep(data)
        try:
            self._pause = take(data)
        except Exception as error:  # noqa: BLE001 - the reader's own: relay() raises it
            self._failure = error
        else:
            if self._pause is None:
                return False
        self._take = None
        self._wake()
        return True

    def _keep(self, data: bytes) -> bool:
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._unpacker is not None:
            self._wake()
        return self._kept_bytes > self._most_kept

    def end(self, error: UpstreamError | None) -> None:
        """The connection's: nothing comes any more, because all is here or because of the error."""
        self._source = None
        self._ended = True
        self._error = error
        self._wake()

    async def read(self) -> bytes:
        if self._unpacker is not None:
            return await self._read_unpacked()
        self._most_kept = inf
        if not self._ended:
            await self._more()
        self._check()
        return self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)

    async def _read_unpacked(self) -> bytes:
        pieces, size = [], 0

        def keep(piece: bytes) -> None:
            nonlocal size
            pieces.append(piece)
            size += len(piece)
            if size > MOST_UNPACKED:
                raise EngineBroken(f"its reply unpacks to more than {MOST_UNPACKED} bytes")

        await self.relay(keep)
        return b"".join(pieces)

    async def relay(self, take: Take) -> None:
        try:
            while True:
                while self._kept:  # more may come in a pause
                    for piece in self._kept_so_far():
                        if (pause := take(piece)) is not None:
                            if self._source is not None:
                                self._source.pause()
                            await pause
                if self._ended:
                    return self._check()
                await self._more(take if self._unpacker is None else None)
        except UpstreamError as error:
            self.abort()
            raise EngineBroken(str(error)) from error
        except BaseException:  # cancelled, or of `take`: nobody reads on
            self.abort()
            raise

    def _kept_so_far(self) -> Iterator[bytes]:
        data = b"".join(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        yield from (data,) if self._unpacker is None else self._unpacker.feed(data)

    async def _more(self, take: Take | None = None) -> None:
        """Waits for the end; or until `take` is done with what it has got, or, without `take`, something came to be unpacked."""
        self._take = take
        if self._source is not None:
            self._source.resume()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except BaseException:
            self.abort()
            if asyncio.iscoroutine(self._pause):
                self._pause.close()  # asked for in the same moment
            raise
        finally:
            self._take = self._waiter = None
        if self._failure is not None:
            raise self._failure
        if self._pause is not None:
            pause, self._pause = self._pause, None
            await pause

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        """Raises EngineBroken where the end was none."""
        if self._error is not None:
            raise EngineBroken(str(self._error)) from self._error
        if self._unpacker is not None:
            self._unpacker.end()

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Ends the connection if the body is not whole; else it is another's by now."""
        source = self._source
        if source is not None:
            self.end(UpstreamError("the answer was closed"))
            source.abort()


_FRAMING = frozenset({"content-encoding", "content-length", "transfer-encoding"})


@lru_cache(maxsize=512)
def _wanted(raw: bytes) -> str:
    """A header's name in lower case; empty for those that nobody reads."""
    name = raw.decode("latin-1").lower()
    return name if name in _FRAMING or name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES) else ""
