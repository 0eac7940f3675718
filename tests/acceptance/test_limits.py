"""Limits as clients meet them: real processes, the SDK, and Redis where gateways share what is
counted.
"""

import asyncio
from typing import Any

import httpx2
import openai
import pytest

from app.config.api_keys_file import KeyEntry, hash_key, write_keys
from app.errors import StoreUnavailable
from app.gateway.access.concurrency_leases import LEASE_SECONDS
from tests.acceptance.asking import CHAT, HELLO, chat, error_of
from tests.acceptance.processes import until
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack
from tests.redis_server import running_redis

KEY, FREE = "sk-with-limits-01", "sk-without-limits"
FOREVER = 1_000_000  # more than a minute takes


def keys_file(stack: Stack, **limits: Any) -> dict[str, str]:
    """A keys file with a key that has these limits and one that has none; gives what a gateway is
    told of it.
    """
    path = stack.directory / "keys.yaml"
    limited = KeyEntry(id="limited", tenant="limited", hash=hash_key(KEY.encode()), **limits)
    write_keys(path, [limited, KeyEntry(id="free", tenant="free", hash=hash_key(FREE.encode()))])
    return {"API_KEYS_FILE": str(path)}


async def served(stack: Stack, upstream: Upstream, **environment: str) -> Gateway:
    """A gateway in front of the upstream's model sim."""
    gateway = await stack.gateway(
        FIRST_OPENAI_MODEL_NAME="sim", FIRST_OPENAI_HOST=upstream.url, **environment
    )
    gateway.key = KEY
    await until(lambda: lists_sim(gateway), "the model")
    return gateway


async def lists_sim(gateway: Gateway) -> bool:
    return "sim" in await gateway.models()


def left(response: httpx2.Response, kind: str) -> tuple[int, int]:
    """Of a minute's requests or tokens: the limit and what remains."""
    return int(response.headers[f"x-ratelimit-limit-{kind}"]), int(
        response.headers[f"x-ratelimit-remaining-{kind}"]
    )


async def asked_until_refused(gateway: Gateway, most: int) -> tuple[int, httpx2.Response]:
    """How many requests were answered before one was refused, and the refusal. A minute may end in
    between.
    """
    async with gateway.http() as http:
        for count in range(2 * most + 1):
            response = await http.post(CHAT, json=chat(max_tokens=2))
            if response.status_code != 200:
                return count, response
            assert left(response, "requests")[0] == most
    raise AssertionError("no request was refused")


async def served_until_refused(sdk: openai.AsyncOpenAI, most: int) -> int:
    """How many more the SDK gets before it is refused: none, unless a minute has just ended."""
    for count in range(2 * most + 1):
        try:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
        except openai.RateLimitError:
            return count
    raise AssertionError("no request was refused")


async def test_beyond_its_requests_a_minute_a_key_is_429_and_told_when_to_come_back(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, **keys_file(memory_stack, rpm=5))
    count, refused = await asked_until_refused(gateway, 5)
    assert count >= 5
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert left(refused, "requests") == (5, 0)
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
    async with gateway.openai() as sdk, gateway.openai(api_key=FREE) as free:
        count += await served_until_refused(sdk, 5)
        raw = await free.chat.completions.with_raw_response.create(model="sim", messages=HELLO)
        assert not [name for name in raw.headers if name.startswith("x-ratelimit-")]
    assert (await upstream.stats()).started == count + 1


async def test_tokens_are_corrected_by_what_the_reply_cost(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    models = memory_stack.directory / "models.yaml"
    models.write_text(
        f"models: [{{id: unasked, host: '{upstream.url}', upstream_model: sim, ask_usage: false}}]"
    )
    gateway = await served(
        memory_stack, upstream, MODELS_FILE=str(models), **keys_file(memory_stack, tpm=FOREVER)
    )
    async with gateway.http() as http:
        for body in (
            chat(max_tokens=1000),
            chat(max_tokens=1000, stream=True),
            chat("unasked", max_tokens=1000, stream=True),
        ):
            response = await http.post(CHAT, json=body)
            limit, remaining = left(response, "tokens")
            assert limit == FOREVER
            assert FOREVER - 3000 < remaining < FOREVER - 1000  # as reserved
        assert (
            left(await http.post(CHAT, json=chat(model="sim", max_tokens=1)), "tokens")[1]
            <= FOREVER - 1
        )
    await until(lambda: gateway.log.count("tokens_counted") == 4, "the access lines")
    lines = [line for line in gateway.log.splitlines() if "tokens_counted" in line]
    assert "tokens_counted=1001" in lines[0]  # the upstream's usage: 1 and 1000
    assert "tokens_counted=1001" in lines[1]  # of a stream too, though its client did not ask
    assert "tokens_estimated" not in lines[0] + lines[1]
    # where the model's entry says that the upstream is not asked
    assert "tokens_estimated=True" in lines[2]


async def test_as_many_run_at_once_as_may_and_a_client_that_leaves_makes_room(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, **keys_file(memory_stack, concurrent=2))
    async with gateway.http() as http:
        running = [asyncio.create_task(http.post(CHAT, json=chat(x_ttft=60))) for _ in range(2)]
        await until(lambda: upstream.has(active=2), "two to run")
        refused = await http.post(CHAT, json=chat())
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        running[0].cancel()
        await until(lambda: is_answered(http), "a place for another")
        running[1].cancel()


async def is_answered(http: httpx2.AsyncClient) -> bool:
    return (await http.post(CHAT, json=chat(max_tokens=1))).status_code == 200


@pytest.mark.servers
async def test_gateways_share_through_redis_and_serve_on_while_it_is_away(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    keys = keys_file(memory_stack, rpm=99, concurrent=1)  # below 100 nothing is taken in advance
    with running_redis() as url:
        one, other = [await served(memory_stack, upstream, REDIS_URL=url, **keys) for _ in range(2)]
        async with one.http() as here, other.http() as there:
            running = asyncio.create_task(here.post(CHAT, json=chat(x_ttft=60)))
            await until(lambda: upstream.has(active=1), "one to run")
            assert (await there.post(CHAT, json=chat())).status_code == 429
            running.cancel()
            await until(lambda: is_answered(there), "its place to be free at the other gateway")
            await until(lambda: count_together(here, there), "both to count the same minute")
            assert (await here.get("/readyz")).json()["dependencies"] == {
                "bus": "ok",
                "store": "ok",
            }
    async with one.http() as here:
        ready = await here.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["dependencies"]["store"] == StoreUnavailable.client_message
        for _ in range(3):
            assert await is_answered(here)
    assert "limits cannot be counted" in one.log
    address = url.removeprefix("redis://").partition("/")[0]
    assert address not in ready.text
    assert any(
        "the store is not ready" in line and address.rpartition(":")[2] in line
        for line in one.log.splitlines()
    )


@pytest.mark.servers
async def test_a_killed_gateways_places_are_soon_free_and_those_of_one_that_lives_are_kept(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    keys = keys_file(memory_stack, concurrent=2)
    with running_redis() as url:
        one, other = [await served(memory_stack, upstream, REDIS_URL=url, **keys) for _ in range(2)]
        async with one.http() as here, other.http() as there:
            running = asyncio.create_task(there.post(CHAT, json=chat(x_ttft=300)))
            await until(lambda: upstream.has(active=1), "one to run at the gateway that lives")
            lost = asyncio.create_task(here.post(CHAT, json=chat(x_ttft=300)))
            await until(lambda: upstream.has(active=2), "another to run")
            one.kill()
            assert (await there.post(CHAT, json=chat())).status_code == 429
            await until(
                lambda: is_answered(there), "the killed gateway's place", seconds=2 * LEASE_SECONDS
            )
            again = asyncio.create_task(there.post(CHAT, json=chat(x_ttft=300)))
            await until(lambda: upstream.has(active=2), "another to run in its place")
            # the older one's place has been renewed
            assert (await there.post(CHAT, json=chat())).status_code == 429
            for task in (running, again, lost):
                task.cancel()
            await asyncio.gather(running, again, lost, return_exceptions=True)


async def count_together(here: httpx2.AsyncClient, there: httpx2.AsyncClient) -> bool:
    """Whether each goes on where the other was; where a minute ends in between, they begin anew."""
    found = [
        left(await http.post(CHAT, json=chat(max_tokens=1)), "requests")[1]
        for http in (here, there, here, there)
    ]
    return found == list(range(found[0], found[0] - 4, -1))


@pytest.mark.servers
async def test_while_redis_is_away_limited_keys_are_503_if_the_operator_wants_that(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    with running_redis() as url:
        pass
    closed = {"REDIS_URL": url, "LIMITS_FAIL_OPEN": "0"}
    gateway = await served(memory_stack, upstream, **closed, **keys_file(memory_stack, rpm=6))
    async with gateway.openai() as sdk, gateway.openai(api_key=FREE) as free:
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
        assert (refused.value.status_code, refused.value.code) == (503, "limits_unavailable")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        await free.chat.completions.create(model="sim", messages=HELLO)
