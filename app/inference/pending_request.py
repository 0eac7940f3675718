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

_AGAIN_SECONDS = 1.0
# bytes that wait for a slow client; what comes then is read from the log again
_MOST_PENDING = 256 * 1024


@dataclass(slots=True, eq=False)
class PendingRequest:
    """Fed by the reply log, read by the one who answers the client."""

    request: RequestRecord
    topic: str
    model: str  # the id behind the name that the client used
    address: Address | None = None  # once the request is acknowledged
    fold: ReplyState = field(default_factory=ReplyState)
    gone: bool = False  # the client has left
    let_go: bool = False  # this gateway reads no further; the request itself goes on
    refill: "Callable[[PendingRequest], Awaitable[None]] | None" = (
        None  # reads on from the log when the client is slower than the reply
    )
    next_offset: int = 0  # behind the last record that was taken
    from_log: bool = False  # the inbox feeds it no more
    behind: bool = False  # what comes next was left in the log
    farewell: ReplyRecord | None = None  # ended the reply for this client, but not in the log
    # takes a part at once while its reader waits for one; or says no
    sink: "Callable[[ReplyRecord], bool] | None" = None
    _pending: int = 0  # bytes
    _parts: deque[ReplyRecord] = field(default_factory=deque)
    _wake: "asyncio.Future[None] | None" = None
    _timeout: float | None = None  # seconds, of who waits
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
    def answered(self) -> bool:
        """A worker has begun to write."""
        return self.fold.attempts > 0

    def placed(self, partition: int, offset: int) -> None:
        """The request is in the log: it is accepted."""
        request = self.request
        where = fingerprint_topic(self.topic)
        self.address = Address(
            request.id, where, partition, offset, request.reply_partition, request.reply_offset
        )
        request.body = b""  # it is in the log, so it need not be held while the reply is awaited

    def parts(self) -> list[ReplyRecord]:
        """What has come and nobody has read."""
        return list(self._parts)

    def feed(self, reply: ReplyRecord, offset: int) -> RecordEffect:
        """Takes the next record of this id from the log."""
        if self.request.stream and self._pending > _MOST_PENDING and self.refill is not None:
            self.behind = self.from_log = True  # the log is the buffer
            return RecordEffect.IGNORED
        self.next_offset = offset + 1
        step = self.fold.apply_record(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if step is RecordEffect.CLAIMED and not self.request.stream:
            self._parts.clear()  # nothing of a whole reply was shown: the new writer begins anew
        elif step in (RecordEffect.APPENDED, RecordEffect.ENDED):
            if step is RecordEffect.APPENDED and self._sunk(reply):
                return step
            self._pending += len(reply.value)
            self._parts.append(reply)
            self._wake_up()
        return step

    def _sunk(self, part: ReplyRecord) -> bool:
        """Whether it went straight to the client. A task's turn for each token is a third of what a
        token costs here.
        """
        if self.sink is None or self._wake is None or self._wake.done() or not self.sink(part):
            return False
        if self._timeout:
            self._wake_at = asyncio.get_running_loop().time() + self._timeout
        return True

    def leave(self) -> None:
        """The client has left: whoever reads the reply is told."""
        self.gone = True
        self._wake_up()
        self._stop_timer()

    def break_off(self, final: ReplyRecord) -> None:
        """Ends the reply for this client only, whatever the log will say."""
        self.farewell = final
        self._parts.append(final)
        self._wake_up()

    async def whole(self, timeout: float | None) -> list[ReplyRecord] | None:
        """All records that count, once the last is there; None if it is not within `timeout`
        seconds. Raises ClientGone.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout if timeout else None
        while not (self._parts and self._parts[-1].outcome):
            left = end - loop.time() if end else None
            if left is not None and left <= 0:
                return None
            await self._wait(left)
        self._stop_timer()
        return list(self._parts)

    async def until_ended(self) -> ReplyRecord:
        """Wait for the last record although the client has gone. Returns it."""
        self.gone = False
        while (part := await self.next(None)) is None or not part.outcome:
            continue
        return part

    async def next(self, timeout: float | None) -> ReplyRecord | None:
        """The next part of the reply; None if none came within `timeout` seconds. Raises
        ClientGone.
        """
        if not self._parts and self.behind and self.refill is not None:
            try:
                await self.refill(self)
            except (
                BusUnavailable
            ):  # what has begun goes on when the log is back, or at its deadline
                self.behind, timeout = True, _AGAIN_SECONDS
        if not self._parts:
            await self._wait(timeout)
        if not self._parts:
            return None
        part = self._parts.popleft()
        self._pending -= len(part.value)
        if part.outcome:
            self._stop_timer()
        return part

    async def _wait(self, timeout: float | None) -> None:
        if self.gone:
            raise ClientGone
        loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._wake_at = loop.time() + timeout if timeout else math.inf
        if self._wake_at < self._timer_at:
            self._set_timer(loop)
        self._wake = loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None
        if self.gone:
            raise ClientGone

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """One for all waits: a timer for each token, nearly always cancelled, is as dear as the
        token's way through here.
        """
        self._stop_timer()
        self._timer, self._timer_at = loop.call_at(self._wake_at, self._tick, loop), self._wake_at

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._timer_at = None, math.inf
        if loop.time() >= self._wake_at:
            self._wake_up()
        elif self._wake is not None and self._wake_at < math.inf:
            self._set_timer(loop)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
