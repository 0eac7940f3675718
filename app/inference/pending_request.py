"""One request as the gateway that serves it sees it: its reply, folded, part by part."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from app.errors import BusUnavailable, ClientGone
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import RecordEffect, ReplyState
from app.protocol.request_id import Address, fingerprint_topic

_REFILL_RETRY_SECONDS = 1.0
# bytes that wait for a slow client; what comes then is read from the log again
_MAX_UNREAD_BYTES = 256 * 1024


@dataclass(slots=True, eq=False)
class PendingRequest:
    """Fed by the reply log, read by the one who answers the client."""

    request: RequestRecord
    topic: str
    model_id: str  # the id behind the name that the client used
    address: Address | None = None  # once the request is acknowledged
    reply_state: ReplyState = field(default_factory=ReplyState)
    client_left: bool = False  # the client has left
    is_detached: bool = False  # this gateway reads no further; the request itself goes on
    refill_from_log: "Callable[[PendingRequest], Awaitable[None]] | None" = (
        None  # reads on from the log when the client is slower than the reply
    )
    next_offset: int = 0  # behind the last record that was taken
    is_fed_from_log: bool = False  # the inbox feeds it no more
    has_unfetched_records: bool = False  # what comes next was left in the log
    local_final: ReplyRecord | None = None  # ended the reply for this client, but not in the log
    # takes a part at once while its reader waits for one; or says no
    sink: "Callable[[ReplyRecord], bool] | None" = None
    _unread_bytes: int = 0  # bytes
    _unread_parts: deque[ReplyRecord] = field(default_factory=deque)
    _waiter: "asyncio.Future[None] | None" = None
    _wait_timeout_seconds: float | None = None  # seconds, of who waits
    _wake_at: float = 0.0  # by the loop's clock: who waits is woken then, though nothing came
    # of uvloop no TimerHandle where its moment is near, so it has no `when`
    _timer: asyncio.Handle | None = None
    _timer_at: float = math.inf

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def public_id(self) -> str:
        return self.address.encode() if self.address else ""

    @property
    def has_started(self) -> bool:
        """A worker has begun to write."""
        return self.reply_state.attempts > 0

    def mark_accepted(self, partition: int, offset: int) -> None:
        """The request is in the log: it is accepted."""
        request = self.request
        topic_fingerprint = fingerprint_topic(self.topic)
        self.address = Address(
            request.id,
            topic_fingerprint,
            partition,
            offset,
            request.reply_partition,
            request.reply_offset,
        )
        request.body = b""  # it is in the log, so it need not be held while the reply is awaited

    def get_unread_parts(self) -> list[ReplyRecord]:
        """What has come and nobody has read."""
        return list(self._unread_parts)

    def apply_record(self, reply: ReplyRecord, offset: int) -> RecordEffect:
        """Takes the next record of this id from the log."""
        if (
            self.request.stream
            and self._unread_bytes > _MAX_UNREAD_BYTES
            and self.refill_from_log is not None
        ):
            self.has_unfetched_records = self.is_fed_from_log = True  # the log is the buffer
            return RecordEffect.IGNORED
        self.next_offset = offset + 1
        effect = self.reply_state.apply_record(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if effect is RecordEffect.CLAIMED and not self.request.stream:
            # nothing of a whole reply was shown: the new writer begins anew
            self._unread_parts.clear()
        elif effect in (RecordEffect.APPENDED, RecordEffect.ENDED):
            if effect is RecordEffect.APPENDED and self._offer_to_sink(reply):
                return effect
            self._unread_bytes += len(reply.value)
            self._unread_parts.append(reply)
            self._wake_waiter()
        return effect

    def _offer_to_sink(self, part: ReplyRecord) -> bool:
        """Whether it went straight to the client. A task's turn for each token is a third of what a
        token costs here.
        """
        if self.sink is None or self._waiter is None or self._waiter.done() or not self.sink(part):
            return False
        if self._wait_timeout_seconds:
            self._wake_at = asyncio.get_running_loop().time() + self._wait_timeout_seconds
        return True

    def mark_client_left(self) -> None:
        """The client has left: whoever reads the reply is told."""
        self.client_left = True
        self._wake_waiter()
        self._stop_timer()

    def end_locally(self, final: ReplyRecord) -> None:
        """Ends the reply for this client only, whatever the log will say."""
        self.local_final = final
        self._unread_parts.append(final)
        self._wake_waiter()

    async def read_whole_reply(self, timeout_seconds: float | None) -> list[ReplyRecord] | None:
        """All records that count, once the last is there; None if it is not within
        `timeout_seconds` seconds. Raises ClientGone.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_seconds if timeout_seconds else None
        while not (self._unread_parts and self._unread_parts[-1].outcome):
            remaining_seconds = ends_at - loop.time() if ends_at else None
            if remaining_seconds is not None and remaining_seconds <= 0:
                return None
            await self._wait_for_part(remaining_seconds)
        self._stop_timer()
        return list(self._unread_parts)

    async def wait_for_final(self) -> ReplyRecord:
        """Wait for the last record although the client has gone. Returns it."""
        self.client_left = False
        while (part := await self.read_next_part(None)) is None or not part.outcome:
            continue
        return part

    async def read_next_part(self, timeout_seconds: float | None) -> ReplyRecord | None:
        """The next part of the reply; None if none came within `timeout_seconds` seconds. Raises
        ClientGone.
        """
        if (
            not self._unread_parts
            and self.has_unfetched_records
            and self.refill_from_log is not None
        ):
            try:
                await self.refill_from_log(self)
            except (
                BusUnavailable
            ):  # what has begun goes on when the log is back, or at its deadline
                self.has_unfetched_records, timeout_seconds = True, _REFILL_RETRY_SECONDS
        if not self._unread_parts:
            await self._wait_for_part(timeout_seconds)
        if not self._unread_parts:
            return None
        part = self._unread_parts.popleft()
        self._unread_bytes -= len(part.value)
        if part.outcome:
            self._stop_timer()
        return part

    async def _wait_for_part(self, timeout_seconds: float | None) -> None:
        if self.client_left:
            raise ClientGone
        loop = asyncio.get_running_loop()
        self._wait_timeout_seconds = timeout_seconds
        self._wake_at = loop.time() + timeout_seconds if timeout_seconds else math.inf
        if self._wake_at < self._timer_at:
            self._set_timer(loop)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self.client_left:
            raise ClientGone

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """One for all waits: a timer for each token, nearly always cancelled, is as dear as the
        token's way through here.
        """
        self._stop_timer()
        self._timer, self._timer_at = (
            loop.call_at(self._wake_at, self._on_timer, loop),
            self._wake_at,
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._timer_at = None, math.inf
        if loop.time() >= self._wake_at:
            self._wake_waiter()
        elif self._waiter is not None and self._wake_at < math.inf:
            self._set_timer(loop)

    def _wake_waiter(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
