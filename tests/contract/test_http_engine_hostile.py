"""A hostile upstream costs its own requests alone: replies that are large, or unpack to much,
beside another model's.
"""

import asyncio
import gzip
import time
from typing import Any

import pytest

from app.agent.engines.base import Engine
from app.agent.engines.echo import EchoEngine
from app.agent.reply import job_run as run_job
from app.agent.reply.job_run import JobRun
from app.agent.reply.plan import plan
from app.config.model_entry import ECHO
from app.protocol.reply_state import COMPLETED, FAILED
from app.protocol.reply_view import ReplyView
from tests.contract.engines import http_engine, worker_settings
from tests.contract.scripted_upstream import (
    Exchange,
    Script,
    ScriptedUpstream,
    chunk,
    head,
    replies,
)
from tests.unit.agent.shop import Shop
from tests.unit.scene import request, started_bus

MIB = 1024 * 1024
NUMBERS = b"".join(b"%d," % number for number in range(4_000_000))
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%07d"}}]}\n\n'
STREAM = b"".join(EVENT % number for number in range(300_000)) + b"data: [DONE]\n\n"


async def run(engine: Engine, *, stream: bool) -> ReplyView:
    at = Shop(await started_bus(), engine)  # type: ignore[arg-type]
    at.context.most_body = 64 * MIB
    asked = request(now=time.time(), stream=stream)
    await JobRun(at.context, asked, ReplyView()).run()
    return await at.lookup.look(asked)


BODIES = {
    "a whole reply": (False, "application/json", b'{"text":"%b"}' % NUMBERS),
    "a stream": (True, "text/event-stream", STREAM),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_another_models_requests_are_answered_while_a_large_reply_is_unpacked(
    kind: str,
) -> None:
    """Counted in requests of the other model, one after the other, that begin and end while the
    large one is under way.
    """
    stream, content_type, body = BODIES[kind]
    begun, data = asyncio.Event(), gzip.compress(body, 5)

    async def script(exchange: Exchange) -> None:
        begun.set()
        await exchange.reply(200, data, content_encoding="gzip", content_type=content_type)

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        large = asyncio.create_task(run(engine, stream=stream))
        answered = 0
        await begun.wait()
        while not large.done():
            other = await run(EchoEngine(ECHO, worker_settings(), pause=0), stream=False)
            assert other.state.outcome == COMPLETED
            answered += not large.done()
        assert (await large).state.outcome == COMPLETED
    assert answered >= 5


async def test_other_models_are_answered_while_a_long_interrupted_stream_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it can be continued is decided by parsing all its events."""
    answered, meanwhile = 0, list[int]()

    def planned(*arguments: Any) -> Any:
        before = answered
        found = plan(*arguments)
        if arguments[1].parts:
            meanwhile.append(answered - before)
        return found

    monkeypatch.setattr(run_job, "plan", planned)
    script = replies(
        200, STREAM.removesuffix(b"data: [DONE]\n\n"), content_type="text/event-stream"
    )
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        long = asyncio.create_task(run(engine, stream=True))
        while not long.done():
            await run(EchoEngine(ECHO, worker_settings(), pause=0), stream=False)
            answered += 1
        assert (await long).state.outcome == FAILED
    assert meanwhile[0] >= 1


async def endless(exchange: Exchange) -> None:
    await exchange.send(head(200, content_type="application/json", transfer_encoding="chunked"))
    while True:
        await exchange.send(chunk(b" " * MIB))


async def endless_error(exchange: Exchange) -> None:
    await exchange.send(head(400, content_type="application/json", transfer_encoding="chunked"))
    while True:
        await exchange.send(chunk(b" " * MIB))


async def endless_trailers(exchange: Exchange) -> None:
    await exchange.send(
        head(200, content_type="application/json", transfer_encoding="chunked"),
        chunk(b"{}"),
        b"0\r\n",
    )
    while True:
        await exchange.send(b"X: " + b"y" * 1000 + b"\r\n")


def packed(body: bytes, content_type: str) -> Script:
    return replies(200, gzip.compress(body), content_encoding="gzip", content_type=content_type)


HOSTILE: dict[str, tuple[bool, Script]] = {
    "a reply without an end": (False, endless),
    "a reply without an end where a stream is asked for": (True, endless),
    "trailers without an end": (False, endless_trailers),
    "much in few bytes": (False, packed(bytes(40 * MIB), "application/json")),
    "much of a stream in few bytes": (True, packed(b"data: 1\n\n" * 4 * MIB, "text/event-stream")),
    "a head that is too large": (True, replies(200, x="y" * 70_000)),
    "an error without an end": (True, endless_error),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_what_is_too_large_is_an_error_at_the_first_try(kind: str) -> None:
    stream, script = HOSTILE[kind]
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        seen = await run(engine, stream=stream)
        assert (seen.parts[-1].code, len(upstream.seen)) == ("reply_too_large", 1)
