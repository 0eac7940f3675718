"""A stream's events on their way from the upstream into the reply, a call per piece that comes and no task switch."""

from collections import deque
from collections.abc import Awaitable, Callable

from app.agent.continuation import Joiner
from app.agent.reply_writer import ReplyWriter
from app.agent.usage import USAGE, without_usage
from app.contracts.sse import EventSplitter

MOST_UNSETTLED = 256 * 1024  # bytes that are read from an upstream while the log has not taken them

_LATEST_BLOCKS = 16
_DONE_BYTES = 24


class EventRelay:
    """Whole events go out as they come; the block with [DONE] is kept for the final record, one record less."""

    __slots__ = ("_joiner", "_latest", "_rename", "_splitter", "_strip", "_unsettled", "_writer", "first", "last")

    def __init__(
        self, writer: ReplyWriter, joiner: Joiner | None, rename: Callable[[bytes], bytes] | None, *, strip: bool = False
    ) -> None:
        """`strip`: the usage is not for the client."""
        self._writer = writer
        self._joiner = joiner
        self._rename = rename
        self._strip = strip
        self._splitter = EventSplitter()
        self._latest = deque[bytes](maxlen=_LATEST_BLOCKS)
        self._unsettled = 0
        self.first = b""  # the first block, in the upstream's own words
        self.last = b""  # the block with [DONE]

    def take(self, piece: bytes) -> Awaitable[None] | None:
        """The engine's next piece. With an awaitable it is told to wait for the log."""
        block = self._splitter.feed(piece)
        if block and self._joiner is not None:
            block = self._joiner.join(block)
        if not block:
            return None
        self._latest.append(block)
        self.first = self.first or block
        if self._strip and USAGE in block:
            block = without_usage(block)
            if not block:
                return None
        written = block if self._rename is None else self._rename(block)
        if b"[DONE]" in block[-_DONE_BYTES:]:
            self.last += written
            return None
        self._writer.write(written)
        self._unsettled += len(written)
        if self._unsettled < MOST_UNSETTLED:
            return None
        self._unsettled = 0
        return self._writer.settled()

    @property
    def latest(self) -> bytes:
        """The last blocks, in the upstream's own words."""
        return b"".join(self._latest)

    def end(self) -> bytes:
        """What belongs into the final record."""
        return self.last + self._splitter.flush()
