"""A worker beside others: what they run is left to them, and blocks nothing; what it claims itself
they see.
"""

import asyncio

import pytest

from app.protocol.heartbeats import WorkerHeartbeat, decode_heartbeat
from app.protocol.records import ControlRecord, ReplyRecord
from app.protocol.reply_state import CLAIM, COMPLETED, FAILED
from tests.unit.agent.scripted_engine import ScriptedEngine, hold_of, reached, slow
from tests.unit.scene import TOPICS, log_of, replies, until


async def begins_a_claim(shop, engine):
    """A worker whose claim on a waiting request lies in the log, unacknowledged."""
    asked = await shop.ask()
    shop.bus.script.append("held")
    worker = await shop.worker(engine)
    await until(lambda: not shop.bus.script)
    return asked, worker


async def test_what_a_busy_worker_still_runs_does_not_keep_the_next_from_what_is_new(shop):
    held = [await shop.ask() for _ in range(400)]
    busy = shop.peer("busy")
    await busy.says(running=tuple(asked.id for asked in held))
    engine = ScriptedEngine()
    await shop.worker(engine)
    new = await shop.ask()
    assert (await shop.ended(new, seconds=5)).state.outcome == COMPLETED
    assert [job.id for job in engine.jobs] == [new.id]


async def newest_beat(shop, worker):
    """What the worker says of itself, two heartbeats later."""
    await asyncio.sleep(2)
    beats = [decode_heartbeat(record.value) for record in await log_of(shop.bus, TOPICS.workers)]
    return [
        beat for beat in beats if isinstance(beat, WorkerHeartbeat) and beat.worker == worker.owner
    ][-1]


async def test_a_heartbeat_lists_what_is_just_being_claimed(shop):
    asked, worker = await begins_a_claim(shop, ScriptedEngine())
    assert (await newest_beat(shop, worker)).running == (asked.id,)
    shop.bus.release()
    assert (await shop.ended(asked)).state.outcome == COMPLETED


async def test_of_a_backlog_from_before_its_assignment_only_what_has_a_slot_is_begun(shop):
    asked = [await shop.ask() for _ in range(30)]
    engine = ScriptedEngine(slow(), *(slow() for _ in asked))
    worker = await shop.worker(engine, concurrency=1)
    await reached(engine)
    beat = await newest_beat(shop, worker)
    assert (beat.running, beat.positions["0"], beat.waiting) == ((asked[0].id,), 1, 29)


async def test_what_is_cancelled_while_it_waits_for_a_slot_is_not_claimed(shop):
    first, second, third = [await shop.ask() for _ in range(3)]
    engine = ScriptedEngine(slow(), slow(), slow())
    await shop.worker(engine, concurrency=1)
    await reached(engine)
    await shop.signal(ControlRecord(second.id, ControlRecord.CANCEL, "g"))
    hold_of(engine.given[0]).released.set()
    await reached(engine, 2)
    assert [job.id for job in engine.jobs] == [first.id, third.id]
    assert second.id not in [reply.id for reply in await replies(shop.bus)]


async def test_a_claim_that_a_drain_interrupts_is_no_death(shop):
    asked, worker = await begins_a_claim(shop, ScriptedEngine())
    await worker.drain(0)
    written: list[ReplyRecord] = [
        reply for reply in await replies(shop.bus) if reply.id == asked.id
    ]
    assert [(reply.owner, reply.supersedes) for reply in written] == [
        (worker.owner, ""),
        ("", worker.owner),
    ]
    await shop.worker(ScriptedEngine())
    seen = await shop.ended(asked)
    assert (seen.state.outcome, seen.deaths) == (COMPLETED, 0)


async def dies(shop, name, *running):
    """A worker that ran these requests falls silent."""
    peer = shop.peer(name)
    await peer.says(running=running)
    await peer.falls_silent()
    await asyncio.sleep(10)


async def test_who_starts_later_knows_of_the_death_before(shop):
    asked = await shop.ask()
    await dies(shop, "killed", asked.id)
    await asyncio.sleep(20)
    await shop.worker(ScriptedEngine())
    await shop.ended(asked)
    assert [reply.deaths for reply in await replies(shop.bus) if reply.kind == CLAIM] == [1]


@pytest.mark.parametrize(("deaths", "outcome"), [(3, COMPLETED), (9, COMPLETED), (10, FAILED)])
async def test_while_workers_die_that_did_not_run_it_many_deaths_are_asked_for(
    shop, deaths, outcome
):
    asked = await shop.ask(deaths=deaths)
    await dies(shop, "killed", "another request")
    await shop.worker(ScriptedEngine())
    assert (await shop.ended(asked)).state.outcome == outcome


async def test_the_deaths_of_long_ago_excuse_nothing(shop):
    asked = await shop.ask(deaths=3)
    worker = await shop.worker(ScriptedEngine(), join=False)
    await dies(shop, "killed", "another request")
    await asyncio.sleep(60)
    await worker.start()
    assert (await shop.ended(asked)).state.outcome == FAILED
