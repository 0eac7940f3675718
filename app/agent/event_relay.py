"""A stream's events on their way from the upstream into the reply, a call per piece that comes and no task switch."""

from collections import deque
from collections.abc import Awaitable, Callable

from app.agent.continuation import Joiner
from app.agent.reply_end import TAIL_BYTES
from app.agent.reply_writer import ReplyWriter
from app.contracts.sse import EventSplitter

MOST_UNSETTLED = 256 * 1024  # bytes that are read from an upstream while the log has not taken them

_TAIL_BLOCKS = 16  # the last blocks, which hold TAIL_BYTES and more where it matters
_DONE_BYTES = 24


class EventRelay:
    """Whole events go out as they come; the block with [DONE] is kept for the final record, one record less."""

    __slots__ = ("_joiner", "_latest", "_rename", "_splitter", "_unsettled", "_writer", "last")

    def __init__(self, writer: ReplyWriter, joiner: Joiner | None, rename: Callable[[bytes], bytes] | None) -> None:
        self._writer = writer
        self._joiner = joiner
        self._rename = rename
        self._splitter = EventSplitter()
        self._latest = deque[bytes](maxlen=_TAIL_BLOCKS)
        self._unsettled = 0
        self.last = b""  # the block with [DONE]

    def take(self, piece: bytes) -> Awaitable[None] | None:
        """The engine's next piece. With an awaitable it is told to wait for the log."""
        block = self._splitter.feed(piece)
        if block and self._joiner is not None:
            block = self._joiner.join(block)
        if not block:
            return None
        self._latest.append(block)
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
    def tail(self) -> bytes:
        """The end of what came, in the upstream's own words."""
        return b"".join(self._latest)[-TAIL_BYTES:]

    def end(self) -> bytes:
        """What belongs into the final record."""
        return self.last + self._splitter.flush()
