"""A stream's events on their way from the upstream into the reply: one call per piece, and no task
switch.
"""

from collections import deque
from collections.abc import Awaitable, Callable

from app.agent.reply.continuation import Joiner
from app.agent.reply.reply_writer import ReplyWriter
from app.agent.reply.usage_request import UsageStripper
from app.openai_api.endpoints import is_done_event
from app.openai_api.sse import EventSplitter, split_events

MOST_UNSETTLED = 256 * 1024  # bytes that are read from an upstream while the log has not taken them

_LATEST_BLOCKS = 16
_DONE, _DONE_BYTES = b"[DONE]", 24


class EventRelay:
    """Writes whole events as they come, in their order.

    A block that ends with [DONE] is held for the final record, which saves a record per stream. If
    something follows all the same, the held block is written before it.
    """

    __slots__ = (
        "_held",
        "_joiner",
        "_latest",
        "_rename",
        "_splitter",
        "_stripper",
        "_unsettled",
        "_writer",
        "first",
        "is_done",
    )

    def __init__(
        self,
        writer: ReplyWriter,
        joiner: Joiner | None,
        rename: Callable[[bytes], bytes] | None,
        *,
        strip: bool = False,
        most_event: int,
    ) -> None:
        """`strip`: the usage is not for the client. `most_event`: bytes of the largest event."""
        self._writer = writer
        self._joiner = joiner
        self._rename = rename
        self._stripper = UsageStripper() if strip else None
        self._splitter = EventSplitter(most_event)
        self._latest = deque[bytes](maxlen=_LATEST_BLOCKS)
        self._unsettled = 0
        self._held = b""
        self.first = b""  # the first block, as the upstream wrote it
        self.is_done = False  # [DONE] has come

    def take(self, piece: bytes) -> Awaitable[None] | None:
        """Take the engine's next piece. Return an awaitable where the engine has to wait for the
        log.

        Raises ReplyTooLarge.
        """
        block = self._splitter.feed(piece)
        if block and self._joiner is not None:
            block = self._joiner.join(block)
        if not block:
            return None
        self._latest.append(block)
        if not self.first:
            self.first = block
        if self._stripper is not None:
            block = self._stripper.strip(block)
            if not block:
                return None
        if self._rename is not None:
            block = self._rename(block)
        if self._held:
            block, self._held = self._held + block, b""
        if _DONE in block[-_DONE_BYTES:] and is_done_event(split_events(block)[-1]):
            self._held, self.is_done = block, True
            return None
        self._writer.write(block)
        self._unsettled += len(block)
        if self._unsettled < MOST_UNSETTLED:
            return None
        self._unsettled = 0
        return self._writer.settled()

    @property
    def latest(self) -> bytes:
        """The last blocks, as the upstream wrote them."""
        return b"".join(self._latest)

    @property
    def rest(self) -> bytes:
        """The bytes behind the last whole event."""
        return self._splitter.flush()

    def take_last_event(self, rest: bytes) -> None:
        """Take an event whose blank line never came: the body ended cleanly behind it."""
        self.take(rest.rstrip(b"\r\n") + b"\n\n")

    def release(self) -> bytes:
        """Return all that is held: it belongs into the next record."""
        stripped = self._stripper.release() if self._stripper is not None else b""
        if stripped and self._rename is not None:
            stripped = self._rename(stripped)
        held, self._held = self._held, b""
        return held + stripped
