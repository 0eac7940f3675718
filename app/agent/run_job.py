"""Runs one request against the engine and writes its reply."""

import asyncio
import logging
import time
from typing import Any

import orjson

from app.agent.context import JobContext
from app.agent.continuation import Joiner
from app.agent.engines.base import JSON, Answer, EngineBroken, EngineUnreachable, Job
from app.agent.event_relay import EventRelay
from app.agent.patience import until_seen
from app.agent.plan import Finish, Run, plan
from app.agent.reply_end import usage
from app.agent.reply_writer import ReplyWriter
from app.agent.usage import asking, refuses
from app.contracts.endpoints import endpoint_of, error_in
from app.contracts.envelope import HOPS_HEADER, Reply, Request
from app.contracts.fold import COMPLETED, EXPIRED, FAILED
from app.contracts.forms import form_with_model
from app.contracts.openai import CHAT, COMPLETIONS, is_text, rename_model, with_model
from app.contracts.seen import Seen
from app.contracts.sse import count_events
from app.errors import DeadlineExceeded, GatewayError, InternalError, ReplyTooLarge, UpstreamUnreachable, WorkerLost
from app.telemetry.metrics import UPSTREAM_ERRORS, UPSTREAM_RETRIES

logger = logging.getLogger("app.agent.job")

DEADLINE_LEEWAY = 2.0  # seconds: the clocks of gateways and workers differ

_TEXTS = (CHAT, COMPLETIONS)  # whose streams have their usage only for the asking


class _UsageRefused(Exception):
    """The upstream refuses what we added to the request."""


class JobRun:
    """This worker's attempts at one request, from what the reply log has of it to its final record."""

    def __init__(self, context: JobContext, request: Request, seen: Seen) -> None:
        self._context = context
        self._request = request
        self._seen = seen
        self._writer = self._new_writer(seen)
        self._queued = max(0.0, time.time() - request.created / 1000)  # seconds
        self._begun = time.monotonic()
        self._traceparent = request.traceparent

    async def run(self, traceparent: str = "") -> None:
        """Ends when the final record is in the log. When it is cancelled, the upstream's work is ended too.

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
            await self._fail(DeadlineExceeded("the request was not done before its deadline"), EXPIRED)
        except EngineUnreachable as error:
            await self._fail(UpstreamUnreachable(str(error)))
        except GatewayError as error:
            await self._fail(error)
        except Exception:  # a fault of ours: the caller hears of it, and the log has the trace
            logger.exception("a job failed", extra={"request_id": self._request.id})
            await self._fail(InternalError("the worker failed; its log says why"))

    @property
    def final(self) -> Reply | None:
        """How it ended; None where it was stopped before."""
        return self._writer.final

    def abandon(self) -> None:
        self._writer.abandon()

    async def _attempts(self, deadline: float) -> None:
        """Begins anew, or goes on, when the upstream breaks off; what the log has decides which."""
        for left in range(self._context.retries, -1, -1):
            try:
                return await self._attempt(deadline)
            except EngineBroken as error:
                self._count_error("broken")
                if not left:
                    raise WorkerLost(f"the model's reply broke off: {error}") from None
                logger.info("the upstream broke off: %s", error, extra={"request_id": self._request.id})
            UPSTREAM_RETRIES.labels(self._context.entry.id).inc()
            await self._writer.settled()
            self._seen = await until_seen(self._context.lookup.look, self._request)
            self._writer = self._new_writer(self._seen)

    def _new_writer(self, seen: Seen) -> ReplyWriter:
        return self._context.writer(self._request, seq=seen.fold.next_seq, event=1 + count_events(seen.text))

    async def _attempt(self, deadline: float) -> None:
        planned = plan(self._request, self._seen, self._context.continues)
        if isinstance(planned, GatewayError):
            raise planned
        if isinstance(planned, Finish):
            return await self._writer.finish(COMPLETED, planned.events, notes=self._notes({}))
        asked = asking(planned.body) if self._wants_usage() else None
        if asked is not None:
            try:
                return await self._ask(planned, asked, deadline, strip=True)
            except _UsageRefused:
                self._context.usage_refused = True
                logger.warning("model %s: its upstream refuses stream_options, so usage is not asked for", self._context.entry.id)
        await self._ask(planned, planned.body, deadline, strip=False)

    def _wants_usage(self) -> bool:
        context, request = self._context, self._request
        wanted = request.stream and context.entry.ask_usage and not context.usage_refused
        return wanted and self._path in _TEXTS

    async def _ask(self, planned: Run, body: bytes, deadline: float, *, strip: bool) -> None:
        """`strip`: we have asked for the usage, so it is not the client's. Raises _UsageRefused, of such a body."""
        answer = await self._called(planned, body, deadline)
        try:
            await self._pass(answer, planned, strip=strip)
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
        if answer.status >= 400:
            self._count_error("5xx" if answer.status >= 500 else "4xx")
        return answer

    async def _pass(self, answer: Answer, planned: Run, *, strip: bool) -> None:
        if answer.is_stream and answer.status < 400:
            self._writer.start(answer.status, answer.headers)
            return await self._pass_events(answer, planned.joiner, strip=strip)
        body = await answer.read()
        if strip and refuses(answer.status, body):
            raise _UsageRefused
        if planned.goes_on and answer.status >= 400:
            raise WorkerLost(f"the upstream would not go on from the text so far: it answered {answer.status}")
        self._writer.start(answer.status, answer.headers)
        used: dict[str, Any] = {}
        if is_text(dict(answer.headers).get("content-type", "")):
            body, used = self._renamed(body), usage(body)
        await self._writer.finish(COMPLETED if answer.status < 400 else FAILED, body, notes=self._notes(used))

    def _job(self, body: bytes, deadline: float) -> Job:
        request, entry = self._request, self._context.entry
        form = request.content_type
        if not self._is_named_alike:
            name = entry.upstream_name
            body = form_with_model(form, body, name) if form else with_model(body, request.model, name)
        hops = ",".join(filter(None, (request.hops, self._context.bus.deployment)))
        traced = (("traceparent", self._traceparent),) if self._traceparent else ()
        head = (*request.head, *traced, (HOPS_HEADER, hops))
        return Job(request.id, request.path, body, request.stream, head, deadline, form or JSON)

    async def _pass_events(self, answer: Answer, joiner: Joiner | None, *, strip: bool) -> None:
        relay = EventRelay(self._writer, joiner, None if self._is_named_alike else self._renamed, strip=strip)
        try:
            await answer.relay(relay.take)
        except EngineBroken:
            if not relay.last:  # else nothing is missing: [DONE] was there
                raise
        latest = relay.latest
        failed = error_in(latest) is not None
        if not failed and not self._is_whole(latest):
            raise EngineBroken("it ended without a finish reason")
        used = {**usage(relay.first), **usage(latest)}  # Anthropic's streams say at their beginning what the prompt was
        await self._writer.finish(FAILED if failed else COMPLETED, relay.end(), notes=self._notes(used))

    async def _fail(self, error: GatewayError, outcome: str = FAILED) -> None:
        try:
            await self._end_with(error, outcome)
        except ReplyTooLarge:  # of what was on its way into the log; the error itself is small
            await self._end_with(error, outcome)

    async def _end_with(self, error: GatewayError, outcome: str) -> None:
        """Our own error: a body while the client has seen nothing, else the stream's last event."""
        endpoint = endpoint_of(self._request.path)
        value = endpoint.error_body(error)
        if self._request.stream and (self._writer.begun or self._seen.parts):
            value = endpoint.error_event(value)
        else:
            self._writer.start(error.status, error.head())
        await self._writer.finish(outcome, value, code=error.code or "", notes=self._notes({}))

    def _count_error(self, kind: str) -> None:
        UPSTREAM_ERRORS.labels(self._context.entry.id, kind).inc()

    @property
    def _path(self) -> str:
        return self._request.path.partition("?")[0]

    @property
    def _is_named_alike(self) -> bool:
        return self._request.model == self._context.entry.upstream_name

    def _renamed(self, block: bytes) -> bytes:
        if self._is_named_alike:
            return block
        return rename_model(block, self._context.entry.upstream_name, self._request.model)

    def _is_whole(self, latest: bytes) -> bool:
        """Return whether a stream whose body ended cleanly has all of its events."""
        endpoint = endpoint_of(self._path)
        return not endpoint.requires_end or endpoint.is_complete(latest)

    def _notes(self, used: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """For people and accounts: who did it, how long it took, the usage that the reply names."""
        notes = (
            ("worker", self._context.owner),
            ("queue-ms", f"{self._queued * 1000:.1f}"),
            ("upstream-ms", f"{(time.monotonic() - self._begun) * 1000:.1f}"),
        )
        return (*notes, ("usage", orjson.dumps(used).decode())) if used else notes
