"""The worker's spans: the time in the queue, the work on a request, the call of the upstream."""

import orjson
import pytest

from app.agent.consume.tracing import TracedEngine
from app.agent.engines.base import Engine, EngineUnreachable, Job
from app.config.model_entry import ModelEntry
from app.protocol.records import ControlRecord
from app.telemetry.tracing import CLIENT, CONSUMER, INTERNAL
from tests.unit.agent.scripted_engine import BROKEN, JSON, Hold, ScriptedAnswer, ScriptedEngine
from tests.unit.agent.workshop import Workshop, workshop
from tests.unit.kept_spans import CLIENTS, Kept, tracing
from tests.unit.scene import REQUESTS, body, turns

ENTRY = ModelEntry(id="m", host="https://u:p@up.example/v1", upstream_model="theirs")
USAGE = {"include_usage": True}


async def test_each_request_has_spans_for_its_wait_its_work_and_its_upstream() -> None:
    tracer, kept = tracing()
    async with workshop() as shop:
        engine = ScriptedEngine()
        await shop.worker(engine, tracer=tracer)
        asked = await shop.ask(
            stream=True,
            traceparent=CLIENTS,
            body=body(stream=True, stream_options=USAGE, max_tokens=3),
        )
        await shop.ended(asked)
        await turns()
    wait, work, call = kept.one(INTERNAL), kept.one(CONSUMER), kept.one(CLIENT)
    assert {told.span.trace_id for told in (wait, work, call)} == {CLIENTS.split("-")[1]}
    assert wait.span.parent_id == work.span.parent_id == CLIENTS.split("-")[2]
    assert call.span.parent_id == work.span.span_id
    assert dict(engine.jobs[0].head)["traceparent"] == call.span.traceparent
    assert (wait.name, wait.span.start_time_ns, wait.ended) == (
        f"queue {REQUESTS}",
        asked.created * 1_000_000,
        work.span.start_time_ns,
    )
    assert (work.name, work["llm_gateway.outcome"], work["llm_gateway.takeover"]) == (
        f"process {REQUESTS}",
        "completed",
        False,
    )
    assert (work["messaging.message.id"], work["messaging.kafka.offset"]) == (asked.id, 0)
    assert (
        call.name,
        call["gen_ai.usage.output_tokens"],
        call["gen_ai.response.finish_reasons"],
    ) == ("chat m", 3, ("length",))
    assert "hello" not in str(kept.spans)


async def test_what_is_taken_over_is_marked_and_has_no_time_in_the_queue() -> None:
    tracer, kept = tracing()
    async with workshop() as shop:
        asked = await shop.ask(deaths=1, traceparent=CLIENTS)
        await shop.worker(ScriptedEngine(), tracer=tracer)
        await shop.ended(asked)
        await turns()
    work = kept.one(CONSUMER)
    assert (work["llm_gateway.takeover"], work["llm_gateway.attempt"]) == (True, 2)
    assert not [told for told in kept.spans if told.kind == INTERNAL]


async def test_without_a_traceparent_the_worker_begins_one_trace() -> None:
    tracer, kept = tracing()
    async with workshop() as shop:
        await shop.worker(ScriptedEngine(), tracer=tracer)
        await shop.ended(await shop.ask())
        await turns()
    assert len({told.span.trace_id for told in kept.spans}) == 1
    assert kept.one(CONSUMER).span.parent_id == ""


async def test_what_is_cancelled_is_no_error() -> None:
    tracer, kept = tracing()
    hold = Hold()
    async with workshop() as shop:
        await shop.worker(ScriptedEngine(ScriptedAnswer([hold])), tracer=tracer)
        asked = await shop.ask(stream=True, traceparent=CLIENTS)
        await hold.reached.wait()
        await cancelled(shop, asked.id)
        while not [told for told in kept.spans if told.kind == CONSUMER]:
            await turns()
    assert (kept.one(CONSUMER)["llm_gateway.outcome"], kept.one(CONSUMER).error) == ("stopped", "")


async def cancelled(shop: Workshop, id_: str) -> None:
    await shop.signal(ControlRecord(id_, ControlRecord.CANCEL, "gateway"))


async def called(
    engine: Engine,
    *,
    stream: bool = False,
    path: str = "/chat/completions",
    traceparent: str = CLIENTS,
) -> Kept:
    """One call, read to its end."""
    tracer, kept = tracing()
    job = Job(
        "id",
        path,
        b'{"messages":"a prompt"}',
        stream,
        (("authorization", "Bearer sk"), ("traceparent", traceparent)),
    )
    try:
        answer = await TracedEngine(engine, ENTRY, tracer).call(job)
        try:
            await answer.relay(lambda piece: None) if stream else await answer.read()
        except type(BROKEN):
            pass
        await answer.close()
        await answer.close()
    except EngineUnreachable:
        pass
    for secret in ("Bearer", "a prompt", "u:p"):
        assert secret not in str(kept.spans)
    return kept


def whole(**members: object) -> ScriptedAnswer:
    reply = {
        "id": "chatcmpl-7",
        "model": "theirs-2024",
        "choices": [{"message": {"content": 'a "model": "x"'}}],
        **members,
    }
    return ScriptedAnswer([orjson.dumps(reply)], headers=JSON)


async def test_a_call_says_whom_it_asked_and_what_the_reply_says_of_itself() -> None:
    told = (
        await called(ScriptedEngine(whole(usage={"prompt_tokens": 2, "completion_tokens": 5})))
    ).one(CLIENT)
    assert told.name == "chat theirs"
    assert told.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "theirs",
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.response.model": "theirs-2024",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "server.address": "up.example",
        "server.port": 443,
    }


async def test_a_call_of_an_endpoint_without_a_word_of_the_conventions_has_the_endpoints() -> None:
    assert (await called(ScriptedEngine(whole()), path="/rerank?x=1")).one(
        CLIENT
    ).name == "rerank theirs"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ScriptedAnswer([b"{}"], status=503, headers=JSON), "503"),
        (ScriptedAnswer([b'data: {"choices":[]}\n\n', BROKEN]), "broken"),
        (EngineUnreachable("nobody"), "unreachable"),
    ],
)
async def test_a_call_that_fails_is_an_error(
    answer: ScriptedAnswer | EngineUnreachable, error: str
) -> None:
    assert (await called(ScriptedEngine(answer), stream=True)).one(CLIENT).error == error


async def test_a_trace_that_is_not_kept_goes_on_to_the_upstream_as_such() -> None:
    engine = ScriptedEngine(whole())
    kept = await called(engine, traceparent=CLIENTS[:-1] + "0")
    assert kept.spans == []
    assert dict(engine.jobs[0].head)["traceparent"].endswith("-00")
