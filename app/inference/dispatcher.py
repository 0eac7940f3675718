"""Writes a request to its model's topic, and ends what nobody waits for any more."""

import asyncio
import logging
import secrets
import time
from asyncio import TimerHandle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bus.base import Place, Sender
from app.cluster.model_registry import ModelState
from app.dispatch.abandoned_requests import AbandonedRequests
from app.dispatch.worker_selection import WorkerSelector
from app.errors import (
    BodyTooLarge,
    BusError,
    BusFull,
    BusUnavailable,
    DeadlineExceeded,
    GatewayError,
    RecordTooLarge,
    RequestCancelled,
    Unconfirmed,
)
from app.inference.admission import Admission
from app.inference.pending_request import PendingRequest
from app.inference.reply_consumer import ReplyConsumer
from app.inference.submission import Submission, Ticket
from app.openai_api.endpoints import find_endpoint
from app.protocol.records import ControlRecord, ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, EXPIRED, FAILED, FINAL
from app.protocol.request_id import new_id
from app.protocol.topics import Topics
from app.telemetry.logs import Throttle
from app.telemetry.metrics import ENDED_BY_GATEWAY

logger = logging.getLogger("app.inference.dispatcher")
logger.addFilter(Throttle())


class Dispatcher:
    """One per process. `open` begins a call; its reply is read from the call itself; `close` ends
    it.
    """

    def __init__(
        self,
        bus: Sender,
        topics: Topics,
        admission: Admission,
        inbox: ReplyConsumer,
        placement: WorkerSelector,
        admit_timeout: float,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._admission = admission
        self._inbox = inbox
        self._placement = placement
        self._admit_timeout = admit_timeout
        self._timers: dict[PendingRequest, TimerHandle] = {}
        self.owner = secrets.token_hex(8)
        self.withdrawn = AbandonedRequests()

    def ticket(self) -> Ticket:
        """An id and a reply's address for a request that is about to be written. Raises
        GatewayError while there is none.
        """
        self._admission.refuse_if_closed()
        return Ticket(new_id(), self._inbox.partition, self._inbox.position)

    @asynccontextmanager
    async def opened(self, submission: Submission) -> AsyncIterator[PendingRequest]:
        """A call that is cancelled when its client leaves. Raises GatewayError."""
        call = await self.open(submission, self.ticket())
        del submission  # its body may be large and the wait long
        try:
            yield call
        finally:
            self.close(call)

    async def open(self, submission: Submission, ticket: Ticket) -> PendingRequest:
        """Writes the request to the log. It is accepted once this returns. Raises GatewayError."""
        known, crowd = self._admission.admit(submission)
        call = self._call(known, submission, ticket)
        self._inbox.expect(call)
        await self._write(call, known, crowd)
        self.watch(call, submission.timeout)
        return call

    async def write_again(self, submission: Submission, ticket: Ticket) -> PendingRequest:
        """Writes a request that may be in the log already; its reply belongs to another gateway.
        Raises GatewayError.
        """
        known, crowd = self._admission.admit(submission)
        call = self._call(known, submission, ticket)
        await self._write(call, known, crowd)
        return call

    def close(self, call: PendingRequest) -> None:
        """The client has its answer, or has left: then the request is cancelled."""
        if not call.fold.outcome and not call.let_go:
            self.end(call, CANCELLED)
        self.forget(call)

    def forget(self, call: PendingRequest) -> None:
        """This gateway does no more about the call; the request itself goes on."""
        self._inbox.drop(call)
        self._stop_timer(call)

    def end(self, call: PendingRequest, outcome: str, error: GatewayError | None = None) -> None:
        """Write a `cancelled` or `expired` final, with its usual error or `error`.

        The log decides whether it came first; the call is fed what the log says.
        """
        ENDED_BY_GATEWAY.labels(call.model, outcome).inc()
        self.withdrawn.add(call.model, call.address)
        final = self._final(call, error or self._error(call, outcome), outcome)
        key = call.id.encode()
        cancel = ControlRecord(call.id, ControlRecord.CANCEL, owner=self.owner)
        partition = call.request.reply_partition
        try:
            sent = self._bus.send(
                self._topics.replies,
                final.value,
                key=key,
                headers=final.encode_headers(),
                partition=partition,
            )
            sent.add_done_callback(_quietly)
            self._bus.send(
                self._topics.control, b"", key=key, headers=cancel.encode_headers()
            ).add_done_callback(_quietly)
        except BusError as failure:
            logger.warning(
                "%s could not be written: %s",
                outcome,
                failure,
                extra={"request_id": call.public_id},
            )
        # Should the log be away, the client is told all the same.
        self._stop_timer(call)
        self._timers[call] = asyncio.get_running_loop().call_later(
            self._admit_timeout, self._end_here, call, final
        )

    def let_go(self, call: PendingRequest, error: GatewayError) -> None:
        """Ends the call for its client with `error`; the request itself goes on and its reply stays
        in the log.
        """
        call.let_go = True
        call.break_off(self._final(call, error, FAILED))

    def _end_here(self, call: PendingRequest, final: ReplyRecord) -> None:
        if not call.fold.outcome:
            call.break_off(final)
        self.forget(call)

    def watch(self, call: PendingRequest, seconds: float) -> None:
        """The call expires after so many seconds, unless it ends or is forgotten before."""
        self._timers[call] = asyncio.get_running_loop().call_later(
            max(0.0, seconds), self._expire, call
        )

    def _expire(self, call: PendingRequest) -> None:
        if not call.fold.outcome:
            self.end(call, EXPIRED)

    def _stop_timer(self, call: PendingRequest) -> None:
        timer = self._timers.pop(call, None)
        if timer is not None:
            timer.cancel()

    def _call(self, known: ModelState, submission: Submission, ticket: Ticket) -> PendingRequest:
        now = int(time.time() * 1000)
        request = RequestRecord(
            id=ticket.id,
            model=submission.model,
            path=submission.path,
            body=submission.body,
            stream=submission.stream,
            reply_partition=ticket.reply_partition,
            reply_offset=ticket.reply_offset,
            created=now,
            deadline=now + int(submission.timeout * 1000),
            tenant=submission.tenant,
            hops=submission.hops,
            head=submission.head,
            traceparent=submission.traceparent,
            maybe_duplicate=ticket.maybe_duplicate,
            content_type=submission.content_type,
        )
        return PendingRequest(request, known.card.topic, known.card.model)

    async def _write(self, call: PendingRequest, known: ModelState, crowd: bool) -> None:
        try:
            place = await self._sent(call, self._placement.choose(known, crowd=crowd))
        except RecordTooLarge as error:
            self.forget(call)
            raise BodyTooLarge(
                f"the request body is larger than its topic takes (max.message.bytes): {error}"
            ) from None
        except BusFull as error:  # so nothing was sent
            self.forget(call)
            raise BusUnavailable(
                f"the request could not be queued: {error}", retry_after_seconds=1
            ) from None
        except (BusError, TimeoutError) as error:
            why = str(error) or "no acknowledgement in time"
            refusal = BusUnavailable(
                f"the request could not be queued: {why}", retry_after_seconds=1
            )
            # The record may be in the log, or come there yet, and another gateway may have joined
            # it by its Idempotency-Key: its client has not cancelled anything, and is to send the
            # request again.
            self.end(call, CANCELLED, refusal)
            raise refusal from None
        call.placed(place.partition, place.offset)

    async def _sent(self, call: PendingRequest, partition: int | None) -> Place:
        """Where the request lies. Raises BusError, TimeoutError."""
        request = call.request
        while True:
            headers = request.encode_headers()
            sent = self._bus.send(
                call.topic,
                request.body,
                key=request.id.encode(),
                headers=headers,
                partition=partition,
            )
            timer = asyncio.get_running_loop().call_later(self._admit_timeout, _give_up, sent)
            try:
                return await sent
            except Unconfirmed:
                # so that a worker looks into the log before it runs it
                request.maybe_duplicate = True
            finally:
                timer.cancel()

    def _final(self, call: PendingRequest, error: GatewayError, outcome: str) -> ReplyRecord:
        return ReplyRecord(
            call.id,
            self.owner,
            FINAL,
            value=find_endpoint(call.request.path).encode_error_body(error),
            status=error.status,
            head=error.build_headers(),
            outcome=outcome,
            code=error.code or "",
            by_gateway=True,
        )

    def _error(self, call: PendingRequest, outcome: str) -> GatewayError:
        if outcome == CANCELLED:
            return RequestCancelled("the request was cancelled")
        waited = (time.time() * 1000 - call.request.created) / 1000
        if call.answered:
            state = "was being answered"
        elif self._admission.worker_of(call.model, call.id):
            state = "was with its model's server, which had not answered yet"
        else:
            why = self._admission.why_unserved(call.model)
            state = f"was waiting for a worker: {why}" if why else "was waiting for a free worker"
        return DeadlineExceeded(f"the request was not done within its {waited:.1f} s; it {state}")


def _give_up(sent: "asyncio.Future[Place]") -> None:
    """A timeout of the future itself: `asyncio.timeout` costs twenty times as much."""
    if not sent.done():
        sent.set_exception(TimeoutError())


def _quietly(future: "asyncio.Future[Place]") -> None:
    if not future.cancelled() and isinstance(error := future.exception(), BusError):
        logger.info("an end was not taken by the log: %s", error)
