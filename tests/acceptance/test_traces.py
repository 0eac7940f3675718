"""One trace across the processes, as a collector gets it: gateway, queue, worker and upstream,
behind the client's own span.
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, check_whole
from tests.acceptance.services import Gateway, Upstream, Worker
from tests.acceptance.stack import Stack
from tests.nginx import free_port
from tests.otlp_receiver import Received, Receiver, receiving

pytestmark = pytest.mark.servers

CLIENTS = "00f067aa0ba902b7"  # the span of the client
GATEWAY, WORKER = "llm-gateway", "llm-worker"
WAY = ("SERVER", "PRODUCER", "INTERNAL", "CONSUMER", "CLIENT")
KEY, PROMPT = "sk-of-a-client-0123", "a prompt that is nobody's business"
TOKENS = 150
MESSAGES = [{"role": "user", "content": PROMPT}]


@dataclass(frozen=True)
class Scene:
    stack: Stack
    receiver: Receiver
    upstream: Upstream
    gateway: Gateway
    clients: Clients

    async def worker(self) -> Worker:
        return await self.stack.worker("sim", self.upstream)

    def ask(self, trace: str, *, flags: str = "01", **fields: object):
        """Sends a chat as the child of the client's own span."""
        heads = {"Traceparent": f"00-{trace}-{CLIENTS}-{flags}", "Tracestate": "vendor=1"}
        return self.clients.post(self.gateway, chat(messages=MESSAGES, **fields), **heads)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A gateway and an upstream whose collector is told at once; no worker yet."""
    with receiving() as receiver:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with Stack("traces", **traced, API_KEYS=KEY) as stack, Clients() as clients:
            yield Scene(
                stack, receiver, await stack.upstream(), await stack.gateway(API_KEYS=KEY), clients
            )


def new_trace() -> str:
    return secrets.token_hex(16)


def check_way(spans: list[Received]) -> dict[str, Received]:
    """Each span is the child of the one before it in the request's way; gives them by kind."""
    assert sorted(span.kind for span in spans) == sorted(WAY)
    way = {span.kind: span for span in spans}
    assert [way[kind].service for kind in WAY] == [GATEWAY, GATEWAY, WORKER, WORKER, WORKER]
    assert way["SERVER"].parent == CLIENTS
    assert way["PRODUCER"].parent == way["SERVER"].id
    assert way["INTERNAL"].parent == way["CONSUMER"].parent == way["PRODUCER"].id
    assert way["CLIENT"].parent == way["CONSUMER"].id
    assert not [span for span in spans if span.failed]
    return way


@pytest.mark.parametrize("stream", [False, True])
async def test_one_trace_goes_from_the_client_to_the_upstream(scene: Scene, stream: bool) -> None:
    await scene.worker()
    trace = new_trace()
    told = await scene.ask(trace, stream=stream, max_tokens=4).end()
    assert told.status == 200
    await until(lambda: scene.receiver.has(trace, *WAY), "all spans")
    way = check_way(scene.receiver.of(trace))
    assert way["SERVER"]["llm_gateway.request.id"] == told.public_id
    assert (
        way["PRODUCER"]["messaging.message.id"]
        == way["CONSUMER"]["messaging.message.id"]
        == told.id
    )
    assert (
        way["PRODUCER"]["messaging.destination.name"]
        == way["CONSUMER"]["messaging.destination.name"]
    )
    assert way["CLIENT"].name == "chat sim"
    assert (way["CLIENT"]["gen_ai.request.model"], way["CLIENT"]["gen_ai.response.model"]) == (
        "sim",
        "sim",
    )
    assert (way["CLIENT"]["server.address"], way["CLIENT"]["server.port"]) == (
        "127.0.0.1",
        scene.upstream.port,
    )
    seen = await scene.upstream.last()
    assert seen.headers["traceparent"] == f"00-{trace}-{way['CLIENT'].id}-01"
    assert seen.headers["tracestate"] == "vendor=1"
    assert PROMPT not in str(scene.receiver.spans)
    assert KEY not in str(scene.receiver.spans)


async def test_the_tokens_that_the_reply_names_are_the_upstreams_spans(scene: Scene) -> None:
    await scene.worker()
    trace = new_trace()
    await scene.ask(trace, max_tokens=4).end()
    await until(lambda: scene.receiver.has(trace, "CLIENT"), "the upstream's span")
    (span,) = [span for span in scene.receiver.of(trace) if span.kind == "CLIENT"]
    assert (span["gen_ai.usage.output_tokens"], span["gen_ai.response.finish_reasons"]) == (
        4,
        ["length"],
    )


async def test_a_trace_that_the_client_does_not_keep_is_kept_by_nobody(scene: Scene) -> None:
    worker = await scene.worker()
    left, kept = new_trace(), new_trace()
    await scene.ask(left, flags="00").end()
    seen = await scene.upstream.last()
    assert seen.headers["traceparent"].startswith(f"00-{left}-")
    assert seen.headers["traceparent"].endswith("-00")
    await scene.ask(kept).end()
    for process in (worker, scene.gateway):  # whatever they have not sent yet goes out
        process.terminate()
        await process.ended()
    assert scene.receiver.has(kept, *WAY)
    assert scene.receiver.of(left) == []


async def test_a_request_whose_worker_is_killed_stays_one_trace(scene: Scene) -> None:
    doomed = await scene.worker()
    trace = new_trace()
    # it outlasts the start of a second worker
    asked = scene.ask(trace, stream=True, max_tokens=TOKENS, x_gap=1)
    await asked.tokens(3)
    survivor = await scene.worker()
    doomed.kill()
    await scene.upstream.hurry()
    told = await asked.end()
    check_whole(told, TOKENS)
    await until(
        lambda: scene.receiver.has(trace, "SERVER", "PRODUCER", "CONSUMER", "CLIENT"),
        "the survivor's spans",
    )
    spans = scene.receiver.of(trace)
    (work,) = [
        span
        for span in spans
        if span.kind == "CONSUMER" and span["llm_gateway.worker"] == survivor.owners["sim"]
    ]
    (sent,) = [span for span in spans if span.kind == "PRODUCER"]
    (call,) = [span for span in spans if span.parent == work.id]
    assert (work["llm_gateway.takeover"], work["llm_gateway.attempt"], work.parent) == (
        True,
        2,
        sent.id,
    )
    first, second = [
        seen.headers["traceparent"] for seen in (await scene.upstream.stats()).requests
    ]
    # both attempts, though of the first only the upstream can tell
    assert first.split("-")[1] == second.split("-")[1] == trace
    assert second.split("-")[2] == call.id != first.split("-")[2]


async def test_what_is_not_sent_yet_goes_out_when_a_process_ends() -> None:
    with receiving() as receiver:
        slow = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        async with Stack("traces", **slow) as stack, Clients() as clients:
            worker, gateway = (
                await stack.worker("sim", await stack.upstream()),
                await stack.gateway(),
            )
            trace = new_trace()
            await clients.post(gateway, chat(), Traceparent=f"00-{trace}-{CLIENTS}-01").end()
            assert receiver.spans == []
            for process in (worker, gateway):
                process.terminate()
                await process.ended()
    check_way(receiver.of(trace))


async def test_a_collector_that_is_away_costs_lines_now_and_then_and_nothing_else() -> None:
    away = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with (
        Stack("traces", **away, OTEL_EXPORTER_OTLP_HEADERS="x-key=of-the-collector") as stack,
        Clients() as clients,
    ):
        worker, gateway = await stack.worker("sim", await stack.upstream()), await stack.gateway()
        for process in (worker, gateway):
            told = [await clients.post(gateway, chat(max_tokens=1)).end() for _ in range(20)]
            assert {one.status for one in told} == {200}
            await until(lambda one=process: "opentelemetry" in one.log, f"{process.name} to say it")
        for process in (worker, gateway):
            process.terminate()
            await process.ended()
            assert 1 <= process.log.count("opentelemetry.") < 10
            assert "of-the-collector" not in process.log
