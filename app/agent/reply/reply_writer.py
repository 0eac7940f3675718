"""Writes one reply to the log: whole events, in order, one record under way at a time.

What arrives while a record is not acknowledged is joined into the next one: light load is
immediate, heavy load cheap, order is kept, and no more than a record waits for the broker. A record
that the log will never take ends the reply: its number goes to the error that its caller then
writes.
"""

import asyncio
import logging

from app.agent.reply.reply_batcher import ReplyBatcher
from app.errors import BusFull, RecordTooLarge, ReplyTooLarge
from app.openai_api.sse import count_events
from app.protocol.records import MAX_REPLY_RECORD_BYTES, ReplyRecord
from app.protocol.reply_state import DATA, FINAL
from app.telemetry.logs import Throttle

logger = logging.getLogger("app.agent.replies")
logger.addFilter(Throttle())

_RETRY_SECONDS = 0.05


class ReplyWriter:
    """One writer's part of one reply. `seq` and `event` go on from a prefix that another writer
    left.
    """

    def __init__(
        self,
        outbox: ReplyBatcher,
        partition: int,
        id_: str,
        owner: str,
        *,
        seq: int = 0,
        event: int = 1,
    ) -> None:
        self._outbox = outbox
        self._partition = partition
        self._id = id_
        self._owner = owner
        self._first = self._seq = seq
        self._event = event
        self._pending: list[tuple[bytes, int]] = []  # blocks with their number of events
        self._status = 0
        self._head: tuple[tuple[str, str], ...] = ()
        self._last: ReplyRecord | None = None  # the final record, once the end is known
        self._idle = asyncio.Event()  # nothing under way, nothing pending
        self._idle.set()
        self._under_way = False
        self._abandoned = False
        self._refused: ReplyTooLarge | None = None
        self.begun = False  # this writer has sent something
        self.final: ReplyRecord | None = None  # what it ended with

    def start(self, status: int, head: tuple[tuple[str, str], ...]) -> None:
        """The status and headers that the client gets; they go with the first record."""
        self._status, self._head = status, head

    def write(self, block: bytes) -> None:
        """Queues a block of whole events. Raises ReplyTooLarge where the log refused one before, as
        those below do.
        """
        self._check()
        self._pending.append((block, count_events(block)))
        self.begun = True
        if not self._under_way:
            self._send_next()

    async def settled(self) -> None:
        """Waits until everything written so far is in the log."""
        await self._idle.wait()
        self._check()

    async def finish(
        self,
        outcome: str,
        value: bytes = b"",
        *,
        code: str = "",
        notes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Writes the end, with `value` as its last bytes, and waits until the log has it."""
        self._check()
        for start in range(0, len(value), MAX_REPLY_RECORD_BYTES):
            self._pending.append((value[start : start + MAX_REPLY_RECORD_BYTES], 0))
        self.final = self._last = ReplyRecord(
            self._id, self._owner, FINAL, outcome=outcome, code=code, notes=notes
        )
        self._idle.clear()
        if not self._under_way:
            self._send_next()
        await self._idle.wait()
        self._check()

    def abandon(self) -> None:
        """Nobody reads on: what the broker has not taken yet is not tried again."""
        self._abandoned = True
        self._pending.clear()
        self._last = None
        self._idle.set()

    def _send_next(self) -> None:
        value, events = self._gather()
        if self._last is None or self._pending:
            reply = ReplyRecord(
                self._id, self._owner, DATA, self._seq, value, self._event, self._status, self._head
            )
        else:
            reply, self._last = self._last, None
            reply.seq, reply.value, reply.event = self._seq, value, self._event
            reply.status, reply.head = self._status, self._head
        self._status, self._head = 0, ()
        self._seq += 1
        self._event += events
        self._under_way = True
        self._idle.clear()
        self._send(reply)

    def _gather(self) -> tuple[bytes, int]:
        """The pending blocks that fit into one record."""
        if len(self._pending) == 1:
            return self._pending.pop()
        taken, size, events = 0, 0, 0
        for block, count in self._pending:
            if taken and size + len(block) > MAX_REPLY_RECORD_BYTES:
                break
            taken, size, events = taken + 1, size + len(block), events + count
        blocks = [block for block, _ in self._pending[:taken]]
        del self._pending[:taken]
        return (blocks[0] if taken == 1 else b"".join(blocks)), events

    def _send(self, reply: ReplyRecord) -> None:
        if not self._abandoned:
            self._outbox.send(self._partition, reply, self._acknowledged)

    def _acknowledged(self, reply: ReplyRecord, error: BaseException | None) -> None:
        if isinstance(error, RecordTooLarge):
            self._refuse(reply, error)
            return
        if error is not None:
            # The same record with the same number: if it is in the log after all, readers ignore
            # the second.
            if not isinstance(error, BusFull):
                logger.warning(
                    "a reply record was not taken and is sent again: %s",
                    error,
                    extra={"request_id": self._id},
                )
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._send, reply)
            return
        self._under_way = False
        if self._pending or self._last is not None:
            self._send_next()
        else:
            self._idle.set()

    def _refuse(self, reply: ReplyRecord, error: RecordTooLarge) -> None:
        """The record is not in the log and never will be, so nothing after it may be: whoever
        writes on hears of it, once.
        """
        logger.error(
            "a record is too large for the log, and its reply ends there: %s",
            error,
            extra={"request_id": self._id},
        )
        self._refused = ReplyTooLarge(
            f"a part of {len(reply.value)} bytes of the model's reply is larger than the log takes"
        )
        self._seq, self._event = reply.seq, reply.event
        self._status, self._head = reply.status, reply.head
        self._pending.clear()
        self._last = self.final = None
        self.begun = reply.seq > self._first
        self._under_way = False
        self._idle.set()

    def _check(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
