"""Runs one request against the engine and writes its reply."""

import asyncio
import re
import time

from app.agent.engines.base import Answer, Engine, EngineBroken, EngineUnreachable, Job
from app.agent.reply_writer import ReplyWriter
from app.catalog import ModelEntry
from app.contracts.envelope import Request
from app.contracts.fold import COMPLETED, EXPIRED, FAILED
from app.contracts.openai import rename_model, with_model
from app.contracts.sse import EventSplitter
from app.errors import DeadlineExceeded, GatewayError, UpstreamUnreachable, WorkerLost

HOPS_HEADER = "x-llm-gateway-hops"
DEADLINE_LEEWAY = 2.0  # seconds: the clocks of gateways and workers differ

_TAIL_BYTES = 4096
_DONE_BYTES = 24
# Inside a text a quote is escaped, so these match members of the events only.
_FINISHED = re.compile(rb'(?<!\\)"finish_reason":\s*"|data: ?\[DONE\]')
_ERROR = re.compile(rb'data: ?\{"error"')
_USAGE = re.compile(rb'(?<!\\)"usage":\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_MUST_FINISH = ("/chat/completions", "/completions")  # elsewhere a clean end of the body is the end


class JobRun:
    """One attempt at one request, by one worker."""

    def __init__(
        self, engine: Engine, entry: ModelEntry, owner: str, deployment: str, request: Request, writer: ReplyWriter
    ) -> None:
        self._engine = engine
        self._entry = entry
        self._owner = owner
        self._deployment = deployment
        self._request = request
        self._writer = writer
        self._queued = max(0.0, time.time() - request.created / 1000)  # seconds
        self._begun = time.monotonic()

    async def run(self) -> None:
        """Ends when the final record is in the log. When it is cancelled, the upstream's work is ended too."""
        left = self._request.deadline / 1000 + DEADLINE_LEEWAY - time.time()
        try:
            async with asyncio.timeout(left):
                await self._answer(left)
        except TimeoutError:
            await self._fail(DeadlineExceeded("the request was not done before its deadline"), EXPIRED)
        except EngineUnreachable as error:
            await self._fail(UpstreamUnreachable(str(error)))
        except EngineBroken as error:
            await self._fail(WorkerLost(f"the model's reply broke off: {error}"))

    async def _answer(self, left: float) -> None:
        answer = await self._engine.call(self._job(left))
        try:
            self._writer.start(answer.status, answer.headers)
            if answer.is_stream and answer.status < 400:
                await self._pass_events(answer)
            else:
                await self._pass_body(answer)
        finally:
            await answer.close()

    def _job(self, left: float) -> Job:
        request = self._request
        body = request.body
        if request.model != self._entry.upstream_name:
            body = with_model(body, request.model, self._entry.upstream_name)
        hops = ",".join(filter(None, (request.hops, self._deployment)))
        return Job(
            id=request.id,
            path=request.path,
            body=body,
            stream=request.stream,
            head=(*request.head, (HOPS_HEADER, hops)),
            deadline=asyncio.get_running_loop().time() + left,
        )

    async def _pass_body(self, answer: Answer) -> None:
        body = self._renamed(await answer.read())
        await self._writer.finish(COMPLETED if answer.status < 400 else FAILED, body, notes=self._notes(body[-_TAIL_BYTES:]))

    async def _pass_events(self, answer: Answer) -> None:
        """Whole events as they come; the block with [DONE] goes into the final record, one record less."""
        splitter, tail, last = EventSplitter(), b"", b""
        async for chunk in answer.chunks():
            block = splitter.feed(chunk)
            if not block:
                continue
            tail = (tail + block)[-_TAIL_BYTES:]
            if b"[DONE]" in block[-_DONE_BYTES:]:
                last += self._renamed(block)
            else:
                self._writer.write(self._renamed(block))
                await self._writer.room()
        if self._request.path in _MUST_FINISH and not _FINISHED.search(tail):
            if _ERROR.search(tail):
                return await self._writer.finish(FAILED, notes=self._notes(tail))
            raise EngineBroken("it ended without a finish reason")
        await self._writer.finish(COMPLETED, last + splitter.flush(), notes=self._notes(tail))

    async def _fail(self, error: GatewayError, outcome: str = FAILED) -> None:
        """Our own error, as a body while nothing was sent, else as the stream's last event."""
        value = error.body()
        if self._writer.begun:
            value = b"data: " + value + b"\n\n"
        else:
            self._writer.start(error.status, error.head())
        await self._writer.finish(outcome, value, code=error.code or "", notes=self._notes(b""))

    def _renamed(self, block: bytes) -> bytes:
        if self._request.model == self._entry.upstream_name:
            return block
        return rename_model(block, self._entry.upstream_name, self._request.model)

    def _notes(self, tail: bytes) -> tuple[tuple[str, str], ...]:
        """For people and accounts: who did it, how long it took, the usage that the reply's end names."""
        usage = _USAGE.findall(tail)
        notes = (
            ("worker", self._owner),
            ("queue-ms", f"{self._queued * 1000:.1f}"),
            ("upstream-ms", f"{(time.monotonic() - self._begun) * 1000:.1f}"),
        )
        return (*notes, ("usage", usage[-1].decode(errors="replace"))) if usage else notes
