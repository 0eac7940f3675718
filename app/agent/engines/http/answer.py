"""An HTTP upstream's reply as an Answer: its connection feeds it, and its reader takes."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from functools import lru_cache
from typing import Protocol

from app.agent.engines.base import MOST_READ, EngineBroken, EngineSilent, Take
from app.agent.engines.http.errors import Silent, TooLarge, Unreadable, UpstreamError
from app.agent.engines.http.unpack import CODINGS, STEP_BYTES, UNSUPPORTED, Unpacker
from app.errors import ReplyTooLarge, UpstreamInvalidReply

PASSED_ON = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})
PASSED_ON_PREFIXES = ("x-ratelimit-", "openai-")
# the operator's, not the client's
OF_THE_ACCOUNT = frozenset({"openai-organization", "openai-project"})
# of an upstream's limits and versions, for one client
MOST_PASSED_LINES, MOST_PASSED_BYTES = 50, 8 * 1024
MOST_VALUE_BYTES = 1024  # of each other header for the client
MOST_KEPT = 256 * 1024  # bytes that wait for a reader before the upstream has to
TURN_BYTES = 256 * 1024  # unpacked before other requests of this process have their turn

Fields = Iterable[tuple[bytes, bytes]]


class Source(Protocol):
    """Where the body comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class HttpAnswer:
    """A reply whose head is known. Its connection may be in the pool again before the body is
    read.
    """

    __slots__ = (
        "_ended", "_error", "_failure", "_kept", "_kept_bytes", "_most_kept",
        "_pause", "_source", "_take", "_unpacker", "_waiter",
        "headers", "is_framed", "is_stream", "status",
    )  # fmt: skip

    def __init__(self, source: Source, status: int, fields: Fields) -> None:
        """Raises Unreadable for a body whose coding cannot be undone."""
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
        """Return the headers for the client, the first of each name, in bounds; note what the
        others say of the body.
        """
        passed: dict[str, str] = {}
        lines, room = 0, MOST_PASSED_BYTES
        for raw_name, raw_value in fields:
            name = _wanted(raw_name)
            if name:
                value = raw_value.decode("latin-1").strip()
                if name in _FRAMING:
                    self._read_framing(name, value.lower())
                elif not value.isascii() or name in passed:
                    continue
                elif name in PASSED_ON:
                    if len(value) <= MOST_VALUE_BYTES:
                        passed[name] = value
                elif lines < MOST_PASSED_LINES and len(name) + len(value) <= room:
                    passed[name] = value
                    lines, room = lines + 1, room - len(name) - len(value)
        self.is_stream = passed.get("content-type", "").lower().startswith("text/event-stream")
        return tuple(passed.items())

    def _read_framing(self, name: str, value: str) -> None:
        if name == "content-encoding":
            # A value that names no coding ("none", "utf-8") is about nothing: the bytes are as they
            # are.
            codings = list(map(str.strip, value.split(",")))
            known = [coding for coding in codings if coding in CODINGS]
            if len(known) + (self._unpacker is not None) > 1 or not UNSUPPORTED.isdisjoint(codings):
                raise Unreadable(f"its reply's content-encoding is not supported ({value})")
            self._unpacker = Unpacker(known[0]) if known else self._unpacker
        elif name == "transfer-encoding" and value not in ("chunked", "identity"):
            raise Unreadable(f"its reply's transfer-encoding is not known ({value})")
        else:
            self.is_framed = value != "identity"

    def feed(self, data: bytes) -> bool:
        """The connection's: the next bytes of the body. True: no more for now, please, until
        `resume`.
        """
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
        is_full = self._kept_bytes > self._most_kept
        if is_full or self._unpacker is not None:
            self._wake()
        return is_full

    def end(self, error: UpstreamError | None) -> None:
        """The connection's: nothing comes any more, because all is here or because of the error."""
        self._source = None
        self._ended = True
        self._error = error
        self._wake()

    async def read(self, most: int = MOST_READ) -> bytes:
        if self._unpacker is not None:
            return await self._read_unpacked(most)
        self._most_kept = most
        while not self._ended and self._kept_bytes <= most:
            await self._more()
        if self._kept_bytes > most:
            self.abort()
            raise too_large(most)
        self._check()
        return self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)

    async def _read_unpacked(self, most: int) -> bytes:
        pieces, size = [], 0

        def keep(piece: bytes) -> None:
            nonlocal size
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise too_large(most)

        await self.relay(keep)
        return b"".join(pieces)

    async def relay(self, take: Take) -> None:
        taken = 0  # since the last turn of others
        try:
            while True:
                while self._kept:  # more may come in a pause
                    for piece in self._kept_so_far():
                        taken += max(len(piece), STEP_BYTES // 2)
                        if self._unpacker is not None and taken > TURN_BYTES:
                            await asyncio.sleep(0)
                            taken = 0
                        if piece and (pause := take(piece)) is not None:
                            if self._source is not None:
                                self._source.pause()
                            await pause
                if self._ended:
                    return self._check()
                await self._more(take if self._unpacker is None else None)
        except UpstreamError as error:
            self.abort()
            raise _broken(error) from error
        except BaseException:  # cancelled, or of `take`: nobody reads on
            self.abort()
            raise

    def _kept_so_far(self) -> Iterator[bytes]:
        data = b"".join(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        yield from (data,) if self._unpacker is None else self._unpacker.feed(data)

    async def _more(self, take: Take | None = None) -> None:
        """Waits for the end; or until `take` is done with what it has got, or, without `take`,
        something came to be unpacked.
        """
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
        """Raises EngineBroken, ReplyTooLarge or UpstreamInvalidReply where the end was none."""
        if self._error is not None:
            raise _broken(self._error) from self._error
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


def _broken(error: UpstreamError) -> Exception:
    """Return what an engine raises for an error in the body."""
    if isinstance(error, TooLarge):
        return ReplyTooLarge(f"the model's reply is too large: {error}")
    if isinstance(error, Unreadable):
        return UpstreamInvalidReply(f"the model's server sent what cannot be passed on: {error}")
    return EngineSilent(str(error)) if isinstance(error, Silent) else EngineBroken(str(error))


def too_large(most: int) -> ReplyTooLarge:
    return ReplyTooLarge(f"the model's reply is larger than {most} bytes (MAX_REPLY_BYTES)")


_FRAMING = frozenset({"content-encoding", "content-length", "transfer-encoding"})


@lru_cache(maxsize=512)
def _wanted(raw: bytes) -> str:
    """Return a header's name in lower case; empty for those that are not read."""
    name = raw.decode("latin-1").lower()
    if name in OF_THE_ACCOUNT:
        return ""
    return (
        name if name in _FRAMING or name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES) else ""
    )
