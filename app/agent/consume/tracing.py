"""The worker's spans: of the time in the queue, of each request that it works on, and of each call
of its upstream.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from app.agent.engines.base import (
    MOST_READ,
    Answer,
    Engine,
    EngineBroken,
    EngineUnreachable,
    Job,
    Take,
)
from app.agent.reply.job_run import JobRun
from app.agent.reply.usage_tail import TAIL_BYTES, members, usage
from app.bus.base import Record
from app.config.model_entry import ModelEntry
from app.errors import ReplyTooLarge, UpstreamInvalidReply
from app.protocol.records import RequestRecord
from app.protocol.reply_state import COMPLETED
from app.protocol.reply_view import ReplyView
from app.telemetry.tracing import (
    CLIENT,
    CONSUMER,
    INTERNAL,
    Attributes,
    Span,
    Tracer,
    operation_name,
)

_HEADER = "traceparent"
_ID, _MODEL = (
    re.compile(rb'"id":\s*"([^"\\]{1,200})"'),
    re.compile(rb'"model":\s*"([^"\\]{1,200})"'),
)
_FINISH = re.compile(rb'"finish_reason":\s*"([a-z_]{1,30})"')
_LATEST = 16  # reads from the upstream, of which the last hold the usage


class JobTraces:
    """Runs jobs with a span around each."""

    def __init__(self, tracer: Tracer, owner: str, group: str, system: str) -> None:
        self._tracer = tracer
        self._owner = owner
        self._group = group
        self._system = system

    async def run(
        self, job: JobRun, request: RequestRecord, record: Record, seen: ReplyView
    ) -> None:
        incoming = request.traceparent
        if self._tracer.should_ignore(incoming):
            return await job.run()
        span = self._tracer.start_span(incoming)
        # of one that is taken over nobody knows when it left the queue
        if span.sampled and not seen.state.attempts:
            waited = self._tracer.start_span(incoming or span.traceparent)
            waited.start_time_ns = request.created * 1_000_000
            self._tracer.end_span(
                waited,
                INTERNAL,
                f"queue {record.topic}",
                self._where(record),
                end_time_ns=max(span.start_time_ns, waited.start_time_ns),
            )
        try:
            await job.run(span.traceparent)
        finally:
            if span.sampled:
                self._worked(span, job, request, record, seen)

    def _worked(
        self, span: Span, job: JobRun, request: RequestRecord, record: Record, seen: ReplyView
    ) -> None:
        final = job.final
        # cancelled, handed back, or another worker's by now
        outcome = final.outcome if final else "stopped"
        attributes = {
            **self._where(record),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": request.id,
            "gen_ai.operation.name": operation_name(request.path),
            "gen_ai.request.model": request.model,
            "llm_gateway.worker": self._owner,
            "llm_gateway.outcome": outcome,
            "llm_gateway.takeover": seen.state.attempts > 0,
            "llm_gateway.attempt": max(1, seen.state.attempts),
        }
        failed = final is not None and outcome != COMPLETED
        error = (final.code or outcome) if final is not None and failed else ""
        self._tracer.end_span(
            span, CONSUMER, f"process {record.topic}", attributes, error_type=error
        )

    def _where(self, record: Record) -> dict[str, str | int | bool]:
        return {
            "messaging.system": self._system,
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": self._group,
        }


class TracedEngine:
    """An engine with a span around each call, from the request to the reply's last byte."""

    def __init__(self, engine: Engine, entry: ModelEntry, tracer: Tracer) -> None:
        self._engine = engine
        self._tracer = tracer
        host = urlsplit(entry.host)
        self._model = entry.upstream_name
        self._whom: dict[str, str | int] = {
            # whose API it is
            "gen_ai.provider.name": "openai" if entry.engine == "http" else entry.engine,
            "server.address": host.hostname or "",
        }
        if host.hostname:
            self._whom["server.port"] = host.port or (443 if host.scheme == "https" else 80)

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    async def check(self) -> str:
        return await self._engine.check()

    async def continues(self) -> bool:
        return await self._engine.continues()

    async def call(self, job: Job) -> Answer:
        """Raises what the engine's call raises."""
        carried = dict(job.head).get(_HEADER, "")
        if self._tracer.should_ignore(carried):
            return await self._engine.call(job)
        span = self._tracer.start_span(carried)
        head = tuple(pair for pair in job.head if pair[0] != _HEADER)
        try:
            answer = await self._engine.call(
                replace(job, head=(*head, (_HEADER, span.traceparent)))
            )
        except (EngineUnreachable, UpstreamInvalidReply, ReplyTooLarge):
            self._called(span, job, {}, "unreachable")
            raise
        return TracedAnswer(answer, partial(self._called, span, job)) if span.sampled else answer

    def _called(self, span: Span, job: Job, said: Attributes, error: str) -> None:
        doing = operation_name(job.path) or job.path.partition("?")[0].strip("/")
        told = {**self._whom, "gen_ai.operation.name": doing, "gen_ai.request.model": self._model}
        self._tracer.end_span(
            span, CLIENT, f"{doing} {self._model}", {**told, **said}, error_type=error
        )


class TracedAnswer:
    """A reply that is passed on as it is, with a look at its beginning and its end. `ended` is told
    once what they say.
    """

    def __init__(self, answer: Answer, ended: Callable[[Attributes, str], None]) -> None:
        self._answer = answer
        self._ended: Callable[[Attributes, str], None] | None = ended
        self.status, self.headers, self.is_stream = answer.status, answer.headers, answer.is_stream
        self._error = str(answer.status) if answer.status >= 400 else ""
        self._head = b""
        self._latest: deque[bytes] = deque(maxlen=_LATEST)

    async def read(self, most: int = MOST_READ) -> bytes:
        """Raises EngineBroken, ReplyTooLarge."""
        try:
            body = await self._answer.read(most)
        except EngineBroken:
            self._error = "broken"
            raise
        self._saw(body)
        return body

    async def relay(self, take: Take) -> None:
        """Raises EngineBroken, and what `take` raises."""

        def seen(piece: bytes) -> Awaitable[None] | None:
            self._saw(piece)
            return take(piece)

        try:
            await self._answer.relay(seen)
        except EngineBroken:
            self._error = "broken"
            raise

    def _saw(self, data: bytes) -> None:
        self._head = self._head or data[:TAIL_BYTES]
        self._latest.append(data)

    async def close(self) -> None:
        await self._answer.close()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self._said(), self._error)

    def _said(self) -> dict[str, str | int | tuple[str, ...]]:
        """What the reply says of itself; never of its text."""
        tail = b"".join(self._latest)[-TAIL_BYTES:]
        finishes = tuple(
            sorted({found[1].decode(errors="replace") for found in members(_FINISH, tail)})
        )
        said: dict[str, str | int | tuple[str, ...]] = {
            "http.response.status_code": self.status,
            "gen_ai.response.id": _first(_ID, self._head),
            "gen_ai.response.model": _first(_MODEL, self._head),
            "gen_ai.response.finish_reasons": finishes,
        }
        counted = usage(tail)
        for name, theirs in (
            ("input", ("prompt_tokens", "input_tokens")),
            ("output", ("completion_tokens", "output_tokens")),
        ):
            tokens = next(
                (counted[each] for each in theirs if isinstance(counted.get(each), int)), None
            )
            if tokens is not None:
                said[f"gen_ai.usage.{name}_tokens"] = tokens
        return said


def _first(pattern: re.Pattern[bytes], head: bytes) -> str:
    found = next(members(pattern, head), None)
    return found[1].decode(errors="replace") if found else ""
