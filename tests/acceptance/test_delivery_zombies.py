"""Workers that are stopped and continued, and workers that come and go: one reply to each request,
and no second generation.
"""

import asyncio

import pytest

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, check_once, check_whole, check_whole_body, ends, load
from tests.acceptance.services import Endpoint, Worker
from tests.acceptance.stack import Stack

pytestmark = pytest.mark.servers

# seconds between 60 tokens: far longer than a test takes to see what it waits for, then the
# upstream is told to hurry
GAP = 0.5


async def runs_all(worker: Worker, ids: set[str]) -> bool:
    return ids <= set((await worker.beat()).running)


async def result(clients: Clients, gateway: Endpoint, public_id: str) -> bytes:
    """What the log says now that the reply is."""
    return (await clients.get(gateway, f"/v1/requests/{public_id}/result").end()).body


@pytest.mark.parametrize("wakes", ["while another goes on", "after the end"])
async def test_a_worker_that_was_stopped_and_goes_on_writes_nothing_that_is_read(
    stack: Stack, wakes: str
) -> None:
    upstream = await stack.upstream()
    sleeper = await stack.worker("sim", upstream, OPENAI_CONTINUES="1")
    gateway = await stack.gateway()
    async with Clients() as clients:
        body = chat(stream=True, max_tokens=60, x_gap=GAP, stream_options={"include_usage": True})
        streams = [clients.post(gateway, body) for _ in range(5)]
        for reading in streams:
            await reading.tokens(3)
        whole = [clients.post(gateway, chat(max_tokens=60, x_gap=GAP)) for _ in range(5)]
        await until(lambda: upstream.has(active=10), "all to run")
        ids = {reading.told.id for reading in streams}
        await until(lambda: runs_all(sleeper, ids), "the worker to say what it runs")
        sleeper.stop()
        heir = await stack.worker("sim", upstream, ready=False, OPENAI_CONTINUES="1")
        await heir.ready()
        await until(lambda: runs_all(heir, ids), "the other worker to have taken over")
        if wakes == "while another goes on":
            sleeper.cont()
            await until(lambda: is_member(sleeper), "the sleeper to be a member again")
        await upstream.hurry()
        told, bodies = await ends(streams), await ends(whole)
        stats = await upstream.idle()
        if wakes == "after the end":
            sleeper.cont()
            await until(lambda: is_member(sleeper), "the sleeper to be a member again")
        for one in told:
            check_whole(one, 60, usage=True)
            assert await result(clients, gateway, one.public_id) == one.body
        for one in bodies:
            check_whole_body(one, 60)
            assert await result(clients, gateway, one.public_id) == one.body
    assert stats.started == 20
    assert {stats.tries[one.id] for one in told + bodies} == {2}


async def is_member(worker: Worker) -> bool:
    """It owns partitions and runs nothing that is another's."""
    beat = await worker.beat()
    return bool(beat.partitions) and not beat.running


async def test_workers_come_and_go_under_load_without_an_error_or_a_second_generation(
    stack: Stack,
) -> None:
    upstream = await stack.upstream()
    options = {"OPENAI_CONTINUES": "0", "WORKER_CONCURRENCY": "12"}
    await stack.worker("sim", upstream, **options)
    gateway = await stack.gateway()
    async with Clients() as clients, load(clients, gateway, 24) as told:
        await until(lambda: len(told) >= 24, "the load to flow")
        others = await asyncio.gather(*(stack.worker("sim", upstream, **options) for _ in range(2)))
        count = len(told)
        await until(lambda: len(told) >= count + 48, "three workers to share the load")
        for worker in others:
            worker.terminate()
        for worker in others:
            assert await worker.ended() == 0
        count = len(told)
        await until(lambda: len(told) >= count + 24, "the last one to go on")
    check_once(told, await upstream.idle())
