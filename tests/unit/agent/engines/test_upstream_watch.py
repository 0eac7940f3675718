"""A worker whose upstream goes says so until it is back, and meanwhile goes on with what comes to
its partitions.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.agent.engines.base import EngineUnreachable, Job
from app.agent.engines.upstream_watch import UpstreamWatch
from app.gateway.gateway import Gateway
from app.protocol.heartbeats import WorkerHeartbeat, decode_heartbeat
from app.protocol.records import RequestRecord
from app.protocol.reply_state import COMPLETED, FAILED
from app.stores.memory import MemoryStore
from tests.unit.agent.scripted_engine import JSON, ScriptedAnswer, ScriptedEngine
from tests.unit.agent.workshop import Workshop
from tests.unit.gateway.house import Client, submission
from tests.unit.scene import MODEL, TOPICS, log_of, settings, until

GONE = "up:80: nobody listens"
REASON = f"its upstream is out of reach: {GONE}"


async def told(shop: Workshop) -> list[WorkerHeartbeat]:
    """The last heartbeat of each worker."""
    beats = [
        decode_heartbeat(record.value or b"") for record in await log_of(shop.bus, TOPICS.workers)
    ]
    return list({beat.worker: beat for beat in beats if isinstance(beat, WorkerHeartbeat)}.values())


async def code(shop: Workshop, asked: RequestRecord) -> str | None:
    (part,) = (await shop.ended(asked)).parts
    return part.code


async def test_it_says_so_and_that_it_is_ready_again_when_the_upstream_is_back(shop, caplog):
    caplog.set_level("INFO")
    engine = ScriptedEngine()
    worker = await shop.worker(engine)
    engine.gone = GONE
    assert await code(shop, await shop.ask()) == "upstream_unreachable"
    await until(lambda: worker.unready() == REASON)
    (beat,) = await told(shop)
    assert (beat.ready, beat.reason, beat.partitions) == (False, REASON, (0, 1))
    await asyncio.sleep(20)
    engine.gone = ""
    await until(lambda: not worker.unready())
    (beat,) = await told(shop)
    assert (beat.ready, beat.reason) == (True, "")
    assert [
        line.count(REASON) + 2 * line.count("ready again")
        for line in caplog.messages
        if MODEL in line
    ][-2:] == [1, 2]
    assert caplog.text.count(GONE) == 1, "one line, however long it takes"


async def test_meanwhile_it_answers_what_comes_and_serves_it_as_soon_as_the_upstream_is_back(shop):
    engine = ScriptedEngine()
    worker = await shop.worker(engine)
    engine.gone = GONE
    assert [await code(shop, await shop.ask(partition=number % 2)) for number in range(4)] == [
        "upstream_unreachable"
    ] * 4
    assert worker.unready()
    engine.gone = ""
    assert (await shop.ended(await shop.ask())).state.outcome == COMPLETED


async def test_a_call_that_failed_though_the_upstream_answers_changes_nothing(shop):
    engine = ScriptedEngine()
    engine.call = refusing  # type: ignore[method-assign]
    worker = await shop.worker(engine)
    checks = engine.checks
    assert (await shop.ended(await shop.ask())).state.outcome == FAILED
    await until(lambda: engine.checks > checks)
    await asyncio.sleep(5)
    assert (worker.unready(), engine.checks) == ("", checks + 1)


async def test_a_refused_token_is_a_reason_to_check(shop):
    engine = ScriptedEngine(ScriptedAnswer([b"{}"], status=401, headers=JSON))
    worker = await shop.worker(engine)
    checks = engine.checks
    assert await code(shop, await shop.ask()) == "upstream_auth_failed"
    await until(lambda: engine.checks > checks)
    assert not worker.unready(), "its check finds no fault"


async def refusing(_job: Job) -> ScriptedAnswer:
    raise EngineUnreachable("just now")


async def test_however_many_requests_fail_the_upstream_is_asked_once_a_second(shop):
    engine = ScriptedEngine()
    await shop.worker(engine)
    checks, engine.gone = engine.checks, GONE
    began = asyncio.get_running_loop().time()
    asked = [await shop.ask(partition=number % 2) for number in range(200)]
    for one in asked:
        await code(shop, one)
    assert engine.checks - checks <= 2 + asyncio.get_running_loop().time() - began
    assert len(engine.jobs) == 200


async def test_the_drain_ends_it(shop):
    engine = ScriptedEngine()
    worker = await shop.worker(engine)
    engine.gone = GONE
    await code(shop, await shop.ask())
    await until(worker.unready)
    await worker.drain(0)
    checks = engine.checks
    await asyncio.sleep(10)
    assert engine.checks == checks


async def test_a_check_that_fails_by_a_fault_of_ours_is_logged_and_made_again_after_the_next_call(
    caplog,
):
    engine, faults = ScriptedEngine(), [ValueError("nobody has thought of this")]
    engine.gone = GONE
    check = engine.check

    async def faulty() -> str:
        if faults and engine.checks:
            raise faults.pop()
        return await check()

    engine.check = faulty  # type: ignore[method-assign]
    watch = UpstreamWatch(engine, MODEL, lambda: None)
    watch.unreachable()
    await until(lambda: not faults)
    await asyncio.sleep(5)
    assert (watch.reason, caplog.text.count("nobody has thought of this")) == ("", 1)
    watch.unreachable()
    await until(lambda: watch.reason == REASON)
    watch.close()


@pytest.fixture
async def gateway(shop: Workshop) -> AsyncIterator[Gateway]:
    made = Gateway(shop.bus, MemoryStore(), settings())
    await made.start()
    yield made
    await made.close()


async def outcomes(gateway: Gateway, count: int) -> list[str]:
    """Of so many requests, eight at a time."""
    found: list[str] = []
    for _ in range(count // 8):
        clients = [Client(gateway.dispatcher.open_request(submission())) for _ in range(8)]
        for client in clients:
            await client.reply()
        found += [client.outcome for client in clients]
    return found


async def test_of_two_workers_the_one_with_a_dead_upstream_gets_but_a_few_of_the_requests(
    shop, gateway
):
    good, dead = ScriptedEngine(), ScriptedEngine()
    for engine in (good, dead):
        await shop.worker(engine)
    known = gateway.model_registry.all()[0]
    await until(lambda: all(beat.partitions for beat in known.serving) and len(known.serving) == 2)
    dead.gone = GONE
    found = await outcomes(gateway, 400)
    assert found.count(FAILED) == len(dead.jobs) <= 8
    assert [beat.reason for beat in known.workers.values() if not beat.ready] == [REASON]
    dead.gone = ""
    await until(lambda: len(known.serving) == 2)
    assert await outcomes(gateway, 40) == [COMPLETED] * 40
    assert len(dead.jobs) > 8, "it has its share again"


async def test_where_no_worker_is_ready_requests_are_taken_all_the_same_and_each_has_its_answer(
    shop, gateway
):
    engine = ScriptedEngine()
    await shop.worker(engine)
    known = gateway.model_registry.all()[0]
    await until(lambda: any(beat.partitions for beat in known.serving))
    engine.gone = GONE
    assert await outcomes(gateway, 40) == [FAILED] * 40
    assert known.serving == []
    engine.gone = ""
    assert await outcomes(gateway, 8) == [COMPLETED] * 8
