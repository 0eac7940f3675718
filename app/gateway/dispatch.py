"""Admits a request, writes it to its model's topic, and ends what nobody waits for any more."""

import asyncio
import logging
import secrets
import time
from asyncio import TimerHandle
from dataclasses import dataclass

from app.bus.base import Bus, Place
from app.catalog import Catalog, Known
from app.contracts.address import new_id
from app.contracts.envelope import Control, Reply, Request
from app.contracts.fold import CANCELLED, EXPIRED, FAILED, FINAL
from app.contracts.topics import Topics
from app.errors import (
    BusError,
    BusUnavailable,
    DeadlineExceeded,
    Draining,
    GatewayError,
    ModelNotFound,
    QueueFull,
    RequestCancelled,
    UpstreamLoop,
)
from app.gateway.call import Call
from app.gateway.inbox import Inbox
from app.gateway.placement import Placement
from app.settings import BusSettings, GatewaySettings

logger = logging.getLogger("app.gateway.dispatch")


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asked for, as far as the gateway looks at it."""

    path: str
    body: bytes
    model: str
    stream: bool
    tenant: str
    timeout: float  # seconds
    hops: str = ""
    head: tuple[tuple[str, str], ...] = ()
    traceparent: str = ""


class Dispatcher:
    """One per process. `open` begins a call; its reply is read from the call itself; `close` ends it."""

    def __init__(
        self, bus: Bus, topics: Topics, catalog: Catalog, inbox: Inbox, placement: Placement, bus_settings: BusSettings,
        settings: GatewaySettings,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._topics = topics
        self._catalog = catalog
        self._inbox = inbox
        self._placement = placement
        self._admit_timeout = bus_settings.admit_timeout
        self._settings = settings
        self._timers: dict[str, TimerHandle] = {}
        self.owner = secrets.token_hex(8)
        self.unready = "starting"  # why no request is admitted; empty when they are
        self.draining = False

    async def open(self, submission: Submission) -> Call:
        """Writes the request to the log. It is accepted once this returns. Raises GatewayError."""
        known = self._admit(submission)
        call = Call(self._request(submission), known.card.topic, known.card.model)
        self._inbox.expect(call)
        try:
            place = await self._produce(call, self._placement.choose(known))
        except (BusError, TimeoutError) as error:
            self.end(call, CANCELLED)  # the record may be in the log, or come there yet
            why = str(error) or "no acknowledgement in time"
            raise BusUnavailable(f"the request could not be queued: {why}", retry_after=1) from None
        call.placed(place.partition, place.offset)
        self._timers[call.id] = asyncio.get_running_loop().call_later(submission.timeout, self.end, call, EXPIRED)
        return call

    def close(self, call: Call) -> None:
        """The client has its answer, or has left: then the request is cancelled."""
        if not call.fold.outcome and not call.let_go:
            self.end(call, CANCELLED)
        self._forget(call)

    def end(self, call: Call, outcome: str) -> None:
        """Writes a `cancelled` or `expired` end. The log decides whether it came first; the call is fed what it says."""
        final = self._final(call, self._error(call, outcome), outcome)
        key = call.id.encode()
        cancel = Control(call.id, Control.CANCEL, owner=self.owner)
        try:
            self._bus.send(
                self._topics.replies, final.value, key=key, headers=final.headers(), partition=call.request.reply_partition
            ).add_done_callback(_quietly)
            self._bus.send(self._topics.control, b"", key=key, headers=cancel.headers()).add_done_callback(_quietly)
        except BusError as failure:
            logger.warning("%s could not be written: %s", outcome, failure, extra={"request_id": call.public_id})
        # Should the log be away, the client is told all the same.
        self._timers[call.id] = asyncio.get_running_loop().call_later(self._admit_timeout, self._end_here, call, final)

    def _end_here(self, call: Call, final: Reply) -> None:
        if not call.fold.outcome:
            call.break_off(final)
        self._forget(call)

    def let_go(self, call: Call, error: GatewayError) -> None:
        """Ends the call for its client with `error`; the request itself goes on and its reply stays in the log."""
        call.let_go = True
        call.break_off(self._final(call, error, FAILED))

    def _forget(self, call: Call) -> None:
        self._inbox.drop(call)
        timer = self._timers.pop(call.id, None)
        if timer is not None:
            timer.cancel()

    def _admit(self, submission: Submission) -> Known:
        if self.draining:
            raise Draining("this gateway is being stopped; send the request again", retry_after=1)
        if self.unready:
            raise BusUnavailable(f"not ready: {self.unready}", retry_after=1)
        if self._bus.deployment in submission.hops.split(","):
            raise UpstreamLoop(
                "this request has come back through the gateway's own upstream: OPENAI_HOST (or a model's host in MODELS_FILE)"
                " points at this gateway"
            )
        known = self._catalog.find(submission.model)
        if known is None:
            raise ModelNotFound(
                f"The model {submission.model!r} does not exist; GET /v1/models lists those that do.", param="model"
            )
        depth = max(known.queue_depth, self._inbox.unanswered[known.card.model] - known.capacity)
        if depth >= self._settings.max_queue_depth:
            raise QueueFull(f"{depth} requests already wait for {submission.model!r}", retry_after=5)
        return known

    def _request(self, submission: Submission) -> Request:
        now = int(time.time() * 1000)
        return Request(
            id=new_id(),
            model=submission.model,
            path=submission.path,
            body=submission.body,
            stream=submission.stream,
            reply_partition=self._inbox.partition,
            reply_offset=self._inbox.position,
            created=now,
            deadline=now + int(submission.timeout * 1000),
            tenant=submission.tenant,
            hops=submission.hops,
            head=submission.head,
            traceparent=submission.traceparent,
        )

    async def _produce(self, call: Call, partition: int | None) -> Place:
        request = call.request
        async with asyncio.timeout(self._admit_timeout):
            return await self._bus.send(
                call.topic, request.body, key=request.id.encode(), headers=request.headers(), partition=partition
            )

    def _final(self, call: Call, error: GatewayError, outcome: str) -> Reply:
        return Reply(
            call.id, self.owner, FINAL, value=error.body(), status=error.status, head=error.head(), outcome=outcome,
            code=error.code or "", by_gateway=True,
        )  # fmt: skip

    def _error(self, call: Call, outcome: str) -> GatewayError:
        if outcome == CANCELLED:
            return RequestCancelled("the request was cancelled")
        waited = (time.time() * 1000 - call.request.created) / 1000
        state = "was being answered" if call.answered else "was waiting for a free worker"
        return DeadlineExceeded(f"the request was not done within its {waited:.1f} s; it {state}")


def _quietly(future: "asyncio.Future[Place]") -> None:
    if not future.cancelled() and isinstance(error := future.exception(), BusError):
        logger.info("an end was not taken by the log: %s", error)
