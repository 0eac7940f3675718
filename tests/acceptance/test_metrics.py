"""/metrics of real processes: on ADMIN_PORT, or on the gateway's own port for its own machine."""

import re

import httpx2
import pytest

from tests.acceptance.asking import HELLO, text_of
from tests.acceptance.processes import get_json, until
from tests.acceptance.stack import Stack
from tests.nginx import free_port

Samples = dict[str, float]


async def scraped(port: int, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False, headers=headers) as http:
        return await http.get(f"http://127.0.0.1:{port}/metrics")


def samples(response: httpx2.Response) -> Samples:
    """What each line says, by its name and labels as they stand there."""
    assert response.status_code == 200
    pairs = [
        line.rpartition(" ") for line in response.text.splitlines() if not line.startswith("#")
    ]
    return {name: float(value) for name, _, value in pairs}


def counted(found: Samples, **labels: str) -> float:
    """Requests with these labels."""
    wanted = {f'{name}="{value}"' for name, value in labels.items()}
    named = {
        name: value
        for name, value in found.items()
        if name.startswith("llm_gateway_requests_total{")
    }
    return sum(value for name, value in named.items() if all(label in name for label in wanted))


async def test_after_a_streamed_and_a_whole_reply_the_admin_port_tells_of_both(
    memory_stack: Stack,
) -> None:
    upstream, port = await memory_stack.upstream(), free_port()
    gateway = await memory_stack.gateway(
        FIRST_OPENAI_MODEL_NAME="sim",
        FIRST_OPENAI_HOST=upstream.url,
        ADMIN_PORT=str(port),
        HEARTBEAT_SECONDS="0.2",
    )
    async with gateway.openai() as sdk:
        await sdk.chat.completions.create(model="sim", messages=HELLO, max_tokens=4)
        usage = {"include_usage": True}
        await text_of(
            await sdk.chat.completions.create(
                model="sim", messages=HELLO, max_tokens=4, stream=True, stream_options=usage
            )
        )

    async def both() -> bool:
        now = samples(await scraped(port))
        return counted(now, model="sim") == 2 and now['llm_gateway_workers{model="sim"}'] == 1

    await until(both, "both to be counted, and their worker")
    found = samples(await scraped(port))
    assert (
        counted(found, model="sim", endpoint="chat/completions", status="200", outcome="completed")
        == 2
    )
    assert found['gen_ai_server_request_duration_seconds_count{gen_ai_request_model="sim"}'] == 2
    assert found['gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="sim"}'] == 1
    assert (
        found['gen_ai_server_time_per_output_token_seconds_count{gen_ai_request_model="sim"}'] == 1
    )
    assert found['llm_gateway_queue_seconds_count{model="sim"}'] == 2
    assert found['llm_gateway_tokens_total{model="sim",type="output"}'] == 8
    assert (await scraped(gateway.port)).status_code == 404  # it has a port of its own


async def test_without_an_admin_port_metrics_are_for_the_gateways_own_machine(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway(API_KEYS="sk-of-the-first-1")
    assert "llm_gateway_workers" in (await scraped(gateway.port)).text
    for header in (
        {"x-forwarded-for": "203.0.113.7"},
        {"x-real-ip": "203.0.113.7"},
        {"forwarded": "for=203.0.113.7"},
    ):
        refused = await scraped(gateway.port, **header)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url")


async def test_processes_with_one_admin_port_have_neighbouring_ones(memory_stack: Stack) -> None:
    gateways = [await memory_stack.gateway(ADMIN_PORT=str(free_port()))]
    first = said_port(gateways[0].log)
    gateways += [await memory_stack.gateway(ADMIN_PORT=str(first)) for _ in range(2)]
    ports = [said_port(gateway.log) for gateway in gateways]
    assert ports == sorted(set(ports))
    for port in ports:
        assert samples(await scraped(port))


async def test_an_admin_port_that_cannot_be_had_stops_nobody(memory_stack: Stack) -> None:
    # nobody's address
    gateway = await memory_stack.gateway(ADMIN_PORT="9464", ADMIN_HOST="192.0.2.1")
    await until(lambda: "no /metrics at 192.0.2.1 port 9464" in gateway.log, "the warning")


def said_port(log: str) -> int:
    """The port that a process says it has /metrics at."""
    found = re.search(r"/metrics at 127\.0\.0\.1 port (\d+)", log)
    assert found is not None, log
    return int(found[1])


@pytest.mark.servers
async def test_a_worker_has_metrics_and_its_health_at_its_admin_port(stack: Stack) -> None:
    upstream, port = await stack.upstream(), free_port()
    await stack.gateway()
    worker = await stack.worker("sim", upstream, ADMIN_PORT=str(port))
    assert samples(await scraped(port))['llm_gateway_rebalances_total{model="sim"}'] >= 1
    root = f"http://127.0.0.1:{port}"
    assert await get_json(f"{root}/healthz") == (200, {"status": "alive"})
    assert await get_json(f"{root}/readyz") == (200, {"ready": True, "reasons": []})
    assert (await get_json(f"{root}/elsewhere"))[0] == 404
    worker.terminate()
    await worker.ended()


@pytest.mark.servers
async def test_a_worker_whose_upstream_is_away_lives_and_is_not_ready(stack: Stack) -> None:
    port = free_port()
    await stack.gateway()
    await stack.worker("sim", f"http://127.0.0.1:{free_port()}", ready=False, ADMIN_PORT=str(port))

    async def is_not_ready() -> bool:
        status, found = await get_json(f"http://127.0.0.1:{port}/readyz")
        return status == 503 and any(
            why.startswith("model sim: 127.0.0.1:") for why in found["reasons"]
        )

    await until(is_not_ready, "the worker to say that its upstream is away")
    assert (await get_json(f"http://127.0.0.1:{port}/healthz"))[0] == 200


@pytest.mark.servers
async def test_processes_that_share_a_port_have_metrics_at_ports_of_their_own(stack: Stack) -> None:
    port = free_port()
    gateway = await stack.gateway("--workers=2", ADMIN_PORT=str(port))
    await stack.worker("sim", await stack.upstream())

    async def both_are_ready() -> bool:
        return all([(await get_json(f"{gateway.root}/readyz"))[0] == 200 for _ in range(10)])

    await until(both_are_ready, "both processes to be ready")
    for _ in range(20):
        # a connection of its own, so that both processes have some
        async with gateway.openai() as sdk:
            await sdk.chat.completions.create(model="sim", messages=HELLO, max_tokens=2)

    async def all_twenty() -> bool:
        both = [counted(samples(await scraped(port + number)), model="sim") for number in range(2)]
        return sum(both) == 20

    await until(all_twenty, "all to be counted")


@pytest.mark.servers
async def test_one_port_of_several_processes_does_not_tell_the_metrics_of_one(stack: Stack) -> None:
    gateway = await stack.gateway("--workers=2")
    status, body = await get_json(f"{gateway.root}/metrics")
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    assert "ADMIN_PORT" in body["error"]["message"]
