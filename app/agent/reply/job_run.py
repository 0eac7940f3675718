"""Runs one request against the engine and writes its reply."""

import asyncio
import logging
import time
from typing import Any

from app.agent.engines.base import JSON, Answer, EngineBroken, EngineSilent, EngineUnreachable, Job
from app.agent.reply.job_context import JobContext
from app.agent.reply.plan import Finish, Run, plan
from app.agent.reply.reply_pass import EndedEarly, ReplyPass, UsageRefused
from app.agent.reply.reply_writer import ReplyWriter
from app.agent.reply.usage_request import asking
from app.agent.reply.usage_tail import usage_note
from app.errors import (
    DeadlineExceeded,
    GatewayError,
    InternalError,
    ReplyTooLarge,
    UpstreamInvalidReply,
    UpstreamUnreachable,
    WorkerLost,
)
from app.openai_api.endpoints import find_endpoint
from app.openai_api.model_member import replace_request_model
from app.openai_api.multipart import replace_form_model
from app.openai_api.sse import count_events
from app.protocol.records import HOPS_HEADER, ReplyRecord, RequestRecord
from app.protocol.reply_state import EXPIRED, FAILED
from app.protocol.reply_view import ReplyView
from app.reply_log.retry import until_seen
from app.telemetry.metrics import UPSTREAM_ERRORS, UPSTREAM_RETRIES

logger = logging.getLogger("app.agent.job")

DEADLINE_LEEWAY = 2.0  # seconds: the clocks of gateways and workers differ

# bytes of a stream that is continued: half a second of parsing for each 2 MB
_PLANNED_AT_ONCE = 256 * 1024
# for which an upstream that refused `stream_options` is not asked for usage
_USAGE_REFUSED_SECONDS = 600.0


class JobRun:
    """This worker's attempts at one request, from what the reply log has of it to its final
    record.
    """

    def __init__(self, context: JobContext, request: RequestRecord, seen: ReplyView) -> None:
        self._context = context
        self._request = request
        self._seen = seen
        self._endpoint = find_endpoint(request.path)
        self._broken: EngineBroken | None = None  # how the upstream's last answer ended
        self._writer = self._new_writer(seen)
        # Seconds until the first worker began: of a reply that is taken over, until its first
        # record at the latest.
        self._queued = max(0.0, (seen.started_at_ms / 1000 or time.time()) - request.created / 1000)
        self._begun = time.monotonic()
        self._traceparent = request.traceparent

    async def run(self, traceparent: str = "") -> None:
        """Ends when the final record is in the log. When it is cancelled, the upstream's work is
        ended too.

        `traceparent`: for the upstream, in the place of the request's own.
        """
        self._traceparent = traceparent or self._traceparent
        left = self._request.deadline / 1000 + DEADLINE_LEEWAY - time.time()
        try:
            if left <= 0:  # expired in the queue: never run
                raise TimeoutError
            async with asyncio.timeout(left):
                await self._attempts(asyncio.get_running_loop().time() + left)
        except TimeoutError:
            await self._fail(
                DeadlineExceeded("the request was not done before its deadline"), EXPIRED
            )
        except EngineUnreachable as error:
            await self._fail(self._unreachable(error))
        except GatewayError as error:
            await self._fail(error)
        except Exception:  # a fault of ours: the caller hears of it, and the log has the trace
            logger.exception("a job failed", extra={"request_id": self._request.id})
            await self._fail(InternalError("the worker failed; its log says why"))

    def _unreachable(self, error: EngineUnreachable) -> UpstreamUnreachable:
        failed = UpstreamUnreachable(
            f"the server of model {self._context.entry.id!r} did not answer: {error}"
        )
        if error.is_silent:  # a generation of that length is not to be begun once more
            failed.should_retry = False
        return failed

    @property
    def final(self) -> ReplyRecord | None:
        """How it ended; None where it was stopped before."""
        return self._writer.final

    def abandon(self) -> None:
        self._writer.abandon()

    async def _attempts(self, deadline: float) -> None:
        """Ask again, or go on, when the upstream breaks off; the log decides which."""
        for left in range(self._context.retries, -1, -1):
            try:
                return await self._attempt(deadline)
            except EngineBroken as error:
                self._count_error("broken")
                self._broken = error
                if not left or (isinstance(error, EngineSilent) and not self._request.stream):
                    raise self._lost(error) from None
                logger.info(
                    "the upstream broke off: %s", error, extra={"request_id": self._request.id}
                )
            UPSTREAM_RETRIES.labels(self._context.entry.id).inc()
            await self._writer.settled()
            self._seen = await until_seen(self._context.lookup.look, self._request)
            self._writer = self._new_writer(self._seen)

    def _lost(self, error: EngineBroken) -> GatewayError:
        """Return the client's error.

        A stream that is empty at each attempt would be empty for the client's attempts, too; and a
        generation that took the whole read timeout is not to be begun once more.
        """
        if isinstance(error, EndedEarly) and error.is_empty:
            return UpstreamInvalidReply(
                f"the server of model {self._context.entry.id!r} answers with an empty stream"
            )
        lost = WorkerLost(f"the model's reply broke off: {error}")
        if isinstance(error, EngineSilent):
            lost.should_retry = False
        return lost

    def _new_writer(self, seen: ReplyView) -> ReplyWriter:
        return self._context.writer(
            self._request, seq=seen.state.next_seq, event=1 + count_events(seen.text)
        )

    async def _attempt(self, deadline: float) -> None:
        planned = await self._plan()
        if isinstance(planned, GatewayError):
            raise planned if self._broken is None else self._lost(self._broken)
        if isinstance(planned, Finish):
            return await self._writer.finish(
                planned.outcome, planned.events, notes=self._notes(planned.usage)
            )
        asked = asking(planned.body) if self._wants_usage() else None
        if asked is None:
            return await self._ask(planned, planned.body, deadline)
        try:
            await self._ask(planned, asked, deadline, strip_usage=True)
        except UsageRefused:
            await self._ask(planned, planned.body, deadline, after_refusal=True)

    async def _plan(self) -> Run | Finish | GatewayError:
        """Plan how to go on; in a thread where much was seen, since each of its events is
        parsed.
        """
        arguments = (self._request, self._seen, self._context.continues)
        if sum(len(part.value) for part in self._seen.parts) <= _PLANNED_AT_ONCE:
            return plan(*arguments)
        return await asyncio.to_thread(plan, *arguments)

    def _wants_usage(self) -> bool:
        context, request = self._context, self._request
        wanted = request.stream and context.entry.ask_usage and self._endpoint.is_usage_optional
        return wanted and time.monotonic() >= context.usage_refused_until

    async def _ask(
        self,
        planned: Run,
        body: bytes,
        deadline: float,
        *,
        strip_usage: bool = False,
        after_refusal: bool = False,
    ) -> None:
        """Ask the upstream and pass its answer on. Raises UsageRefused, where `strip_usage`.

        `after_refusal`: the same body with `stream_options` was refused. Only where this one is
        accepted was that the reason: an upstream may repeat a client's own words in its error.
        """
        answer = await self._called(planned, body, deadline)
        if after_refusal and answer.status < 400:
            self._context.usage_refused_until = time.monotonic() + _USAGE_REFUSED_SECONDS
            logger.warning(
                "model %s: its upstream refuses stream_options, so usage is not asked for",
                self._context.entry.id,
            )
        reply = ReplyPass(
            self._context, self._request, self._endpoint, self._writer, planned, self._notes
        )
        try:
            await reply.pass_on(answer, strip_usage=strip_usage)
        finally:
            await answer.close()

    async def _called(self, planned: Run, body: bytes, deadline: float) -> Answer:
        try:
            answer = await self._context.engine.call(self._job(body, deadline))
        except EngineUnreachable as error:
            self._count_error("unreachable")
            self._context.upstream.unreachable()
            if planned.goes_on:
                raise WorkerLost(f"the upstream that wrote this stream is gone: {error}") from None
            raise
        except (UpstreamInvalidReply, ReplyTooLarge):
            self._count_error("broken")
            raise
        if answer.status == 401:
            # while it refuses the token, the other workers are better off
            self._context.upstream.unreachable()
        if answer.status >= 400:
            self._count_error("5xx" if answer.status >= 500 else "4xx")
        return answer

    def _job(self, body: bytes, deadline: float) -> Job:
        request, entry = self._request, self._context.entry
        form = request.content_type
        name = entry.upstream_name
        if request.model != name:
            body = (
                replace_form_model(form, body, name)
                if form
                else replace_request_model(body, request.model, name)
            )
        hops = ",".join(filter(None, (request.hops, self._context.bus.deployment)))
        traced = (("traceparent", self._traceparent),) if self._traceparent else ()
        head = (*request.head, *traced, (HOPS_HEADER, hops))
        return Job(request.id, request.path, body, request.stream, head, deadline, form or JSON)

    async def _fail(self, error: GatewayError, outcome: str = FAILED) -> None:
        try:
            await self._end_with(error, outcome)
        except ReplyTooLarge:  # of what was on its way into the log; the error itself is small
            await self._end_with(error, outcome)

    async def _end_with(self, error: GatewayError, outcome: str) -> None:
        """Our own error: a body while the client has seen nothing, else the stream's last event."""
        value = self._endpoint.encode_error_body(error)
        if self._request.stream and (self._writer.begun or self._seen.parts):
            value = self._endpoint.encode_error_event(value)
        else:
            self._writer.start(error.status, error.build_headers())
        await self._writer.finish(outcome, value, code=error.code or "", notes=self._notes({}))

    def _count_error(self, kind: str) -> None:
        UPSTREAM_ERRORS.labels(self._context.entry.id, kind).inc()

    def _notes(self, used: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """For people and accounts: who did it, how long it took, the usage that the reply names."""
        notes = (
            ("worker", self._context.owner),
            ("queue-ms", f"{self._queued * 1000:.1f}"),
            ("upstream-ms", f"{(time.monotonic() - self._begun) * 1000:.1f}"),
        )
        return (*notes, ("usage", note)) if (note := usage_note(used)) else notes
