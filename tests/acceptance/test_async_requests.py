"""`Prefer: respond-async` as an operator sees it: what becomes of such requests is in the metrics,
the log and the limits.
"""

import re
from typing import Any

import httpx2
import openai
import pytest

from app.config.api_keys_file import KeyEntry, hash_key, write_keys
from tests.acceptance.asking import CHAT, HELLO, chat
from tests.acceptance.processes import until
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack

KEY = "sk-with-limits-01"
FOREVER = 1_000_000  # tokens, more than a minute takes
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
async def upstream(memory_stack: Stack) -> Upstream:
    return await memory_stack.upstream()


@pytest.fixture
async def gateway(memory_stack: Stack, upstream: Upstream) -> Gateway:
    """In front of the model sim, for a key with a limit of tokens."""
    keys = memory_stack.directory / "keys.yaml"
    write_keys(
        keys,
        [
            KeyEntry(
                id="k", tenant="research", hash=hash_key(KEY.encode()), tpm=FOREVER, concurrent=2
            )
        ],
    )
    made = await memory_stack.gateway(
        FIRST_OPENAI_MODEL_NAME="sim",
        FIRST_OPENAI_HOST=upstream.url,
        API_KEYS_FILE=str(keys),
        HEARTBEAT_SECONDS="0.2",
    )
    made.key = KEY

    async def has_sim() -> bool:
        return "sim" in await made.models()

    await until(has_sim, "the model")
    return made


async def accepted(gateway: Gateway, **fields: Any) -> str:
    """A chat that the SDK does not wait for; its id."""
    async with gateway.openai() as sdk:
        body = {"x_ttft": 0.2, **fields}
        told = await sdk.chat.completions.with_raw_response.create(
            model="sim", messages=HELLO, extra_headers=ASYNC, extra_body=body
        )
    assert told.status_code == 202
    return str(told.headers["x-request-id"])


async def line_of(gateway: Gateway, id_: str) -> str:
    """The one access line that there is of a request, once there is one. Asking for it or
    cancelling it has lines of its own.
    """

    def lines() -> list[str]:
        return [
            line
            for line in gateway.log.splitlines()
            if f"request_id={id_}" in line and f"POST {CHAT} " in line
        ]

    await until(lambda: bool(lines()), "the access line")
    (line,) = lines()
    return line


async def counted(gateway: Gateway) -> dict[str, float]:
    """The gateway's metrics, by name and labels."""
    async with httpx2.AsyncClient() as http:
        text = (await http.get(f"{gateway.root}/metrics")).text
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def requests(found: dict[str, float]) -> dict[tuple[str, str], float]:
    """Chats by status and outcome."""
    chats = [
        name
        for name in found
        if name.startswith("llm_gateway_requests_total{") and 'endpoint="chat/completions"' in name
    ]
    said = {name: dict(re.findall(r'(\w+)="([^"]*)"', name)) for name in chats}
    return {
        (labels["status"], labels["outcome"]): found[name]
        for name, labels in said.items()
        if labels["model"] == "sim"
    }


async def are_counted(gateway: Gateway, expected: dict[tuple[str, str], float]) -> bool:
    return requests(await counted(gateway)) == expected


async def tokens_left(gateway: Gateway) -> int:
    """What a key has left of its tokens, before this question of one token is paid."""
    async with gateway.http() as http:
        response = await http.post(CHAT, json=chat(max_tokens=1))
        assert response.status_code == 200
        return int(response.headers["x-ratelimit-remaining-tokens"])


async def test_each_is_counted_once_at_its_end_as_what_it_came_to(
    gateway: Gateway, upstream: Upstream
) -> None:
    done = await accepted(gateway, max_tokens=40)
    assert "async=True" in (line := await line_of(gateway, done))
    assert "status=200" in line
    assert "outcome=completed" in line
    assert "completion_tokens=40" in line
    assert "queue_ms=" in line
    assert "tenant=research" in line
    failed = await line_of(gateway, await accepted(gateway, x_status=404))
    assert "status=404" in failed
    assert "outcome=failed" in failed
    long = await accepted(gateway, x_ttft=60)
    await until(lambda: upstream.has(active=1), "it to run")
    async with gateway.openai() as sdk:
        await sdk.post(f"/requests/{long}/cancel", cast_to=object)
    cancelled = await line_of(gateway, long)
    assert "status=409" in cancelled
    assert "outcome=cancelled" in cancelled
    await upstream.idle()
    ends = {("200", "completed"): 1, ("404", "failed"): 1, ("409", "cancelled"): 1}
    await until(lambda: are_counted(gateway, ends), "each to be counted")
    found = await counted(gateway)
    assert found['llm_gateway_tokens_total{model="sim",type="output"}'] == 40
    assert found['llm_gateway_queue_seconds_count{model="sim"}'] >= 1
    assert found['gen_ai_server_request_duration_seconds_count{gen_ai_request_model="sim"}'] == 3


async def test_a_key_is_charged_what_its_reply_took_and_nothing_for_one_that_failed(
    gateway: Gateway,
) -> None:
    done = await line_of(gateway, await accepted(gateway, max_tokens=400))
    assert "tokens_counted=401" in done  # the upstream's usage: 1 and 400
    assert "tokens_counted=0" in await line_of(
        gateway, await accepted(gateway, max_tokens=400, x_status=404)
    )
    # the failed one gave its 400 back, or a minute has ended
    assert FOREVER - 1000 < await tokens_left(gateway) <= FOREVER - 1


async def test_what_runs_by_itself_keeps_its_place_and_is_shown_as_running(
    gateway: Gateway, upstream: Upstream
) -> None:
    long = await accepted(gateway, x_ttft=60)
    await until(lambda: upstream.has(active=1), "it to run")
    other = await accepted(gateway, x_ttft=60)
    with pytest.raises(openai.RateLimitError):
        await accepted(gateway)
    async with gateway.openai() as sdk:
        await sdk.post(f"/requests/{other}/cancel", cast_to=object)
    assert await tokens_left(gateway) > 0  # there is room for one again

    async def shown() -> bool:
        async with httpx2.AsyncClient() as http:
            running = (await http.get(f"{gateway.root}/admin/overview")).json()["running"]
        return [(one["id"], one["state"], one["tenant"]) for one in running] == [
            (long, "running", "research")
        ]

    await until(shown, "it to be shown")
    async with gateway.openai() as sdk:
        await sdk.post(f"/requests/{long}/cancel", cast_to=object)
        with pytest.raises(openai.ConflictError):
            await sdk.get(f"/requests/{long}/result", cast_to=object)


async def test_sent_again_with_its_key_it_is_one_request(
    gateway: Gateway, upstream: Upstream
) -> None:
    async with gateway.http() as http:
        head, body = {**ASYNC, "Idempotency-Key": "once"}, chat(x_ttft=60, max_tokens=40)
        ids = [
            (await http.post(CHAT, json=body, headers=head)).headers["x-request-id"]
            for _ in range(3)
        ]
    assert len(set(ids)) == 1
    await until(lambda: upstream.has(active=1), "it to run")
    await upstream.release()
    await until(lambda: "outcome=completed" in gateway.log, "its end")
    assert len([line for line in gateway.log.splitlines() if "async=True" in line]) == 1
    await until(
        lambda: are_counted(gateway, {("200", "completed"): 1, ("202", "other"): 2}),
        "all three to be counted",
    )
    assert (await upstream.stats()).started == 1
