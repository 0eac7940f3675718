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
    """One per process. `submit_request` begins a call; its reply is read from the call itself;
    `close_request` ends it.
    """

    def __init__(
        self,
        bus: Sender,
        topics: Topics,
        admission: Admission,
        reply_consumer: ReplyConsumer,
        worker_selector: WorkerSelector,
        admit_timeout_seconds: float,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._admission = admission
        self._reply_consumer = reply_consumer
        self._worker_selector = worker_selector
        self._admit_timeout_seconds = admit_timeout_seconds
        self._timers: dict[PendingRequest, TimerHandle] = {}
        self.owner = secrets.token_hex(8)
        self.abandoned_requests = AbandonedRequests()

    def issue_ticket(self) -> Ticket:
        """An id and a reply's address for a request that is about to be written. Raises
        GatewayError while there is none.
        """
        self._admission.refuse_if_closed()
        return Ticket(new_id(), self._reply_consumer.partition, self._reply_consumer.position)

    @asynccontextmanager
    async def open_request(self, submission: Submission) -> AsyncIterator[PendingRequest]:
        """A call that is cancelled when its client leaves. Raises GatewayError."""
        pending = await self.submit_request(submission, self.issue_ticket())
        del submission  # its body may be large and the wait long
        try:
            yield pending
        finally:
            self.close_request(pending)

    async def submit_request(self, submission: Submission, ticket: Ticket) -> PendingRequest:
        """Writes the request to the log. It is accepted once this returns. Raises GatewayError."""
        model_state, uses_bulk_lane = self._admission.admit(submission)
        pending = self._make_pending_request(model_state, submission, ticket)
        self._reply_consumer.add_request(pending)
        await self._write_request(pending, model_state, uses_bulk_lane)
        self.start_deadline_timer(pending, submission.timeout_seconds)
        return pending

    async def resubmit_request(self, submission: Submission, ticket: Ticket) -> PendingRequest:
        """Writes a request that may be in the log already; its reply belongs to another gateway.
        Raises GatewayError.
        """
        model_state, uses_bulk_lane = self._admission.admit(submission)
        pending = self._make_pending_request(model_state, submission, ticket)
        await self._write_request(pending, model_state, uses_bulk_lane)
        return pending

    def close_request(self, pending: PendingRequest) -> None:
        """The client has its answer, or has left: then the request is cancelled."""
        if not pending.reply_state.outcome and not pending.is_detached:
            self.end_request(pending, CANCELLED)
        self.forget_request(pending)

    def forget_request(self, pending: PendingRequest) -> None:
        """This gateway does no more about the call; the request itself goes on."""
        self._reply_consumer.remove_request(pending)
        self._stop_timer(pending)

    def end_request(
        self, pending: PendingRequest, outcome: str, error: GatewayError | None = None
    ) -> None:
        """Write a `cancelled` or `expired` final, with its usual error or `error`.

        The log decides whether it came first; the call is fed what the log says.
        """
        ENDED_BY_GATEWAY.labels(pending.model_id, outcome).inc()
        self.abandoned_requests.add(pending.model_id, pending.address)
        final = self._make_final(pending, error or self._make_error(pending, outcome), outcome)
        key = pending.id.encode()
        cancel = ControlRecord(pending.id, ControlRecord.CANCEL, owner=self.owner)
        partition = pending.request.reply_partition
        try:
            ack = self._bus.send(
                self._topics.replies,
                final.value,
                key=key,
                headers=final.encode_headers(),
                partition=partition,
            )
            ack.add_done_callback(_log_send_failure)
            self._bus.send(
                self._topics.control, b"", key=key, headers=cancel.encode_headers()
            ).add_done_callback(_log_send_failure)
        except BusError as failure:
            logger.warning(
                "%s could not be written: %s",
                outcome,
                failure,
                extra={"request_id": pending.public_id},
            )
        # Should the log be away, the client is told all the same.
        self._stop_timer(pending)
        self._timers[pending] = asyncio.get_running_loop().call_later(
            self._admit_timeout_seconds, self._end_locally, pending, final
        )

    def detach_client_with_error(self, pending: PendingRequest, error: GatewayError) -> None:
        """Ends the call for its client with `error`; the request itself goes on and its reply stays
        in the log.
        """
        pending.is_detached = True
        pending.end_locally(self._make_final(pending, error, FAILED))

    def _end_locally(self, pending: PendingRequest, final: ReplyRecord) -> None:
        if not pending.reply_state.outcome:
            pending.end_locally(final)
        self.forget_request(pending)

    def start_deadline_timer(self, pending: PendingRequest, seconds: float) -> None:
        """The call expires after so many seconds, unless it ends or is forgotten before."""
        self._timers[pending] = asyncio.get_running_loop().call_later(
            max(0.0, seconds), self._expire_request, pending
        )

    def _expire_request(self, pending: PendingRequest) -> None:
        if not pending.reply_state.outcome:
            self.end_request(pending, EXPIRED)

    def _stop_timer(self, pending: PendingRequest) -> None:
        timer = self._timers.pop(pending, None)
        if timer is not None:
            timer.cancel()

    def _make_pending_request(
        self, model_state: ModelState, submission: Submission, ticket: Ticket
    ) -> PendingRequest:
        now_ms = int(time.time() * 1000)
        request = RequestRecord(
            id=ticket.id,
            model=submission.model,
            path=submission.path,
            body=submission.body,
            stream=submission.stream,
            reply_partition=ticket.reply_partition,
            reply_offset=ticket.reply_offset,
            created=now_ms,
            deadline=now_ms + int(submission.timeout_seconds * 1000),
            tenant=submission.tenant,
            hops=submission.hops,
            head=submission.head,
            traceparent=submission.traceparent,
            maybe_duplicate=ticket.maybe_duplicate,
            content_type=submission.content_type,
        )
        return PendingRequest(request, model_state.card.topic, model_state.card.model)

    async def _write_request(
        self, pending: PendingRequest, model_state: ModelState, uses_bulk_lane: bool
    ) -> None:
        try:
            place = await self._send_request(
                pending, self._worker_selector.choose(model_state, crowd=uses_bulk_lane)
            )
        except RecordTooLarge as error:
            self.forget_request(pending)
            raise BodyTooLarge(
                f"the request body is larger than its topic takes (max.message.bytes): {error}"
            ) from None
        except BusFull as error:  # so nothing was sent
            self.forget_request(pending)
            raise BusUnavailable(
                f"the request could not be queued: {error}", retry_after_seconds=1
            ) from None
        except (BusError, TimeoutError) as error:
            reason = str(error) or "no acknowledgement in time"
            refusal = BusUnavailable(
                f"the request could not be queued: {reason}", retry_after_seconds=1
            )
            # The record may be in the log, or come there yet, and another gateway may have joined
            # it by its Idempotency-Key: its client has not cancelled anything, and is to send the
            # request again.
            self.end_request(pending, CANCELLED, refusal)
            raise refusal from None
        pending.mark_accepted(place.partition, place.offset)

    async def _send_request(self, pending: PendingRequest, partition: int | None) -> Place:
        """Where the request lies. Raises BusError, TimeoutError."""
        request = pending.request
        while True:
            headers = request.encode_headers()
            ack = self._bus.send(
                pending.topic,
                request.body,
                key=request.id.encode(),
                headers=headers,
                partition=partition,
            )
            timer = asyncio.get_running_loop().call_later(
                self._admit_timeout_seconds, _fail_with_timeout, ack
            )
            try:
                return await ack
            except Unconfirmed:
                # so that a worker looks into the log before it runs it
                request.maybe_duplicate = True
            finally:
                timer.cancel()

    def _make_final(
        self, pending: PendingRequest, error: GatewayError, outcome: str
    ) -> ReplyRecord:
        return ReplyRecord(
            pending.id,
            self.owner,
            FINAL,
            value=find_endpoint(pending.request.path).encode_error_body(error),
            status=error.status,
            head=error.build_headers(),
            outcome=outcome,
            code=error.code or "",
            by_gateway=True,
        )

    def _make_error(self, pending: PendingRequest, outcome: str) -> GatewayError:
        if outcome == CANCELLED:
            return RequestCancelled("the request was cancelled")
        waited_seconds = (time.time() * 1000 - pending.request.created) / 1000
        if pending.has_started:
            state = "was being answered"
        elif self._admission.find_worker(pending.model_id, pending.id):
            state = "was with its model's server, which had not answered yet"
        else:
            unserved_reason = self._admission.get_unserved_reason(pending.model_id)
            state = (
                f"was waiting for a worker: {unserved_reason}"
                if unserved_reason
                else "was waiting for a free worker"
            )
        return DeadlineExceeded(
            f"the request was not done within its {waited_seconds:.1f} s; it {state}"
        )


def _fail_with_timeout(ack: "asyncio.Future[Place]") -> None:
    """A timeout of the future itself: `asyncio.timeout` costs twenty times as much."""
    if not ack.done():
        ack.set_exception(TimeoutError())


def _log_send_failure(ack: "asyncio.Future[Place]") -> None:
    if not ack.cancelled() and isinstance(error := ack.exception(), BusError):
        logger.info("an end was not taken by the log: %s", error)
