"""Gateways and workers as processes of their own on Kafka: each request to its model's workers,
whoever comes and goes.
"""

import asyncio
import signal

import openai
import pytest

from tests.acceptance.asking import CHAT, HELLO, chat, text_of
from tests.acceptance.processes import get_json, until
from tests.acceptance.services import Gateway, Worker
from tests.acceptance.stack import Stack
from tests.nginx import free_port
from tests.numbered import tokens

pytestmark = pytest.mark.servers


async def ask_at_once(gateway: Gateway, model: str, count: int) -> None:
    """So many chats at the same time; each reply is checked."""
    async with gateway.openai() as sdk:
        asked = [
            sdk.chat.completions.create(
                model=model, messages=HELLO, max_tokens=2, extra_body={"x_ttft": 0.5}
            )
            for _ in range(count)
        ]
        replies = await asyncio.gather(*asked)
    assert [(reply.model, reply.choices[0].message.content) for reply in replies] == [
        (model, tokens(2))
    ] * count


async def test_two_models_with_two_workers_each_get_their_own_requests(stack: Stack) -> None:
    upstreams = {
        model: [await stack.upstream(model) for _ in range(2)] for model in ("org/first", "second")
    }
    for model, both in upstreams.items():
        for upstream in both:
            await stack.worker(model, upstream)
    gateway = await stack.gateway()
    await until(lambda: has_two_of_each(gateway), "all workers to be listed")
    await asyncio.gather(*(ask_at_once(gateway, model, 20) for model in upstreams))
    for both in upstreams.values():  # another model's request would have been a 404 of the upstream
        completed = [(await upstream.stats()).completed for upstream in both]
        assert sum(completed) == 20
        assert min(completed) > 0


async def has_two_of_each(gateway: Gateway) -> bool:
    return {model: card["workers"] for model, card in (await gateway.models()).items()} == {
        "org/first": 2,
        "second": 2,
    }


async def test_two_groups_on_one_topic_each_take_only_their_own_models_requests(
    stack: Stack,
) -> None:
    shared = {"KAFKA_REQUEST_TOPIC": f"{stack.prefix}.shared"}
    upstreams = {model: await stack.upstream(model) for model in ("one", "two")}
    for model, upstream in upstreams.items():
        await stack.worker(model, upstream, **shared, GROUP_ID=f"{stack.prefix}.group-{model}")
    gateway = await stack.gateway()
    await asyncio.gather(ask_at_once(gateway, "one", 12), ask_at_once(gateway, "two", 8))
    assert [(await upstream.stats()).started for upstream in upstreams.values()] == [12, 8]


async def test_all_replicas_of_a_worker_get_work(stack: Stack) -> None:
    upstreams = [await stack.upstream() for _ in range(3)]
    workers = [await stack.worker("sim", upstream) for upstream in upstreams]
    gateway = await stack.gateway()
    await until(lambda: each_partition_has_one(workers), "each partition to have one owner")
    await ask_at_once(gateway, "sim", 30)
    assert min([(await upstream.stats()).completed for upstream in upstreams]) > 0


async def each_partition_has_one(workers: list[Worker]) -> bool:
    beats = [await worker.beat() for worker in workers]
    return sorted(partition for beat in beats for partition in beat.partitions) == list(range(8))


async def test_a_worker_whose_upstream_dies_is_passed_by_until_it_is_back(stack: Stack) -> None:
    good, dead = [await stack.upstream() for _ in range(2)]
    port = free_port()
    await stack.worker("sim", good)
    worker = await stack.worker("sim", dead, UPSTREAM_RETRIES="0", ADMIN_PORT=str(port))
    gateway = await stack.gateway()
    dead.kill()
    async with gateway.http() as http:

        async def answers(status: int) -> bool:
            return (await http.post(CHAT, json=chat(max_tokens=2))).status_code == status

        await until(lambda: answers(502), "a request to find nobody at the upstream")
        await until(lambda: has_workers(gateway, 1), "the worker to be passed by")
        assert all([await answers(200) for _ in range(50)])
        status, told = await get_json(f"http://127.0.0.1:{port}/readyz")
        assert status == 503
        assert any("out of reach" in reason for reason in told["reasons"])
        await dead.restart()
        await until(lambda: has_workers(gateway, 2), "the worker to be ready again")
    await ask_at_once(gateway, "sim", 20)
    assert (await dead.stats()).completed > 0
    assert (worker.log.count("out of reach"), worker.log.count("ready again")) == (1, 1)


async def test_a_worker_runs_only_as_many_as_it_may_and_the_rest_waits_in_the_log(
    stack: Stack,
) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream, WORKER_CONCURRENCY="4")
    gateway = await stack.gateway()
    await until(lambda: has_capacity(gateway, 4), "the worker to say how many it runs")
    await ask_at_once(gateway, "sim", 20)
    assert (await upstream.stats()).peak == 4


async def test_a_request_waits_for_a_worker_also_one_by_a_gateway_that_came_meanwhile(
    stack: Stack,
) -> None:
    upstream = await stack.upstream()
    worker = await stack.worker("sim", upstream)
    first = await stack.gateway()
    worker.terminate()
    assert await worker.ended() == 0
    await until(lambda: has_workers(first, 0), "the model to have no worker")
    second = await stack.gateway()
    async with first.openai() as one, second.openai() as two:
        waiting = [asyncio.create_task(text_of_a_stream(sdk)) for sdk in (one, two)]
        await until(lambda: depth_is(first, 2), "both to wait")
        assert (await upstream.stats()).started == 0
        await worker.restart()
        assert await asyncio.gather(*waiting) == [tokens(5), tokens(5)]


async def text_of_a_stream(sdk: openai.AsyncOpenAI) -> str:
    return await text_of(
        await sdk.chat.completions.create(model="sim", messages=HELLO, stream=True, max_tokens=5)
    )


async def has_workers(gateway: Gateway, count: int) -> bool:
    return (await gateway.models())["sim"]["workers"] == count


async def has_capacity(gateway: Gateway, count: int) -> bool:
    return (await gateway.models())["sim"]["capacity"] == count


async def depth_is(gateway: Gateway, depth: int) -> bool:
    return (await gateway.models())["sim"]["queue_depth"] == depth


async def test_a_worker_waits_for_an_upstream_that_is_not_up_yet(stack: Stack) -> None:
    port = free_port()
    worker = await stack.worker("sim", f"http://127.0.0.1:{port}", ready=False)
    gateway = await stack.gateway()
    await until(lambda: has_workers_or_none(gateway), "the model to be known")
    async with gateway.openai() as sdk:
        waiting = asyncio.create_task(text_of_a_stream(sdk))
        await until(lambda: depth_is(gateway, 1), "the request to wait")
        await until(lambda: "not serving yet" in worker.log, "the worker to say why")
        assert worker.log.count("not serving yet") == 1
        await stack.upstream(port=port)
        assert await waiting == tokens(5)


async def has_workers_or_none(gateway: Gateway) -> bool:
    return "sim" in await gateway.models()


async def test_a_request_that_comes_back_through_its_own_upstream_is_caught(stack: Stack) -> None:
    gateway = await stack.gateway()
    await stack.worker("sim", gateway.root)
    async with gateway.openai() as sdk:
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
    assert refused.value.code == "upstream_loop"


async def test_two_gateways_serve_behind_nginx_and_one_may_go(stack: Stack) -> None:
    upstream = await stack.upstream(gap=0.05)
    await stack.worker("sim", upstream)
    gateways = [await stack.gateway() for _ in range(2)]
    front = stack.nginx(*gateways)
    async with front.http() as http, front.openai() as sdk:
        replies = [await http.post(CHAT, json=chat(max_tokens=1)) for _ in range(10)]
        assert {reply.status_code for reply in replies} == {200}
        await until(
            lambda: all(
                "POST /v1/chat/completions status=200" in gateway.log for gateway in gateways
            ),
            "both to serve",
        )

        async with await sdk.chat.completions.create(
            model="sim", messages=HELLO, stream=True, max_tokens=2000
        ) as stream:
            begun = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
            assert begun == ["", " tok0", " tok1"]  # while the upstream goes on writing
            assert await upstream.has(active=1)
        await until(
            lambda: upstream.has(active=0, aborted=1),
            "the upstream to be told that the client has left",
        )

        stream = await sdk.chat.completions.create(
            model="sim", messages=HELLO, stream=True, max_tokens=40
        )
        await anext(stream)
        gateways[0].terminate()
        assert await text_of(stream) == tokens(40)
        replies = [await http.post(CHAT, json=chat(max_tokens=1)) for _ in range(10)]
        assert {reply.status_code for reply in replies} == {200}
    assert await gateways[0].ended() in (0, -signal.SIGTERM)
