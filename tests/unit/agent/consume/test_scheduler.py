"""What becomes of the records a worker takes: run, passed over, cancelled, lost to another, handed
back.
"""

import asyncio
from typing import Any

import pytest

from app.protocol.records import ControlRecord, ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, CLAIM, COMPLETED, EXPIRED, FINAL
from tests.numbered import tokens
from tests.unit.agent.counted import counted
from tests.unit.agent.scripted_engine import (
    Hold,
    ScriptedAnswer,
    ScriptedEngine,
    hold_of,
    reached,
    slow,
)
from tests.unit.agent.workshop import Workshop
from tests.unit.scene import (
    MODEL,
    REQUESTS,
    TOPICS,
    body,
    log_of,
    replies,
    send_reply,
    send_request,
    text_of,
    until,
)

PLAIN: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "count"}]}
LIMITED = body(stream=True, max_tokens=5)


async def kinds(shop: Workshop, asked: RequestRecord) -> list[str]:
    return [reply.kind for reply in await replies(shop.bus) if reply.id == asked.id]


async def test_what_is_certainly_new_is_run_without_asking_the_log(shop):
    await shop.worker(ScriptedEngine())
    asked = await shop.ask()
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(5))
    assert CLAIM not in await kinds(shop, asked)
    await shop.committed(1)


async def test_as_many_run_as_there_are_slots_and_the_next_begins_when_one_ends(shop):
    engine = ScriptedEngine(*[slow() for _ in range(5)])
    await shop.worker(engine, concurrency=2)
    asked = [await shop.ask(partition=number % 2) for number in range(5)]
    await reached(engine, 2)
    await asyncio.sleep(5)
    assert len(engine.jobs) == 2
    for number in range(5):
        await reached(engine, number + 1)
        hold_of(engine.given[number]).released.set()
    assert [(await shop.ended(one)).state.outcome for one in asked] == [COMPLETED] * 5


async def test_another_models_request_on_a_shared_topic_is_passed_over(shop):
    engine = ScriptedEngine()
    await shop.worker(engine)
    other = await shop.ask(model="other")
    await shop.committed(1)
    assert (engine.jobs, await kinds(shop, other)) == ([], [])


async def test_what_cannot_be_decoded_is_a_dead_letter_and_the_partition_goes_on(shop):
    letters = counted("dead_letters")
    await shop.worker(ScriptedEngine())
    await shop.bus.send(
        REQUESTS, b"\xff\x00", key=b"k", headers=[("v", b"9"), ("odd", b"\xff")], partition=0
    )
    assert (await shop.ended(await shop.ask())).state.outcome == COMPLETED
    await shop.committed(2)
    (letter,) = await log_of(shop.bus, TOPICS.dlq)
    headers = dict(letter.headers)
    assert (letter.value, headers["dlq-origin"], headers["odd"]) == (
        b"\xff\x00",
        b"llm.requests.m/0/0",
        b"\xff",
    )
    assert b"not UTF-8" in headers["dlq-reason"]
    assert counted("dead_letters") == letters + 1


async def test_a_dead_letter_that_the_log_does_not_take_is_sent_again(shop):
    shop.bus.scripted = TOPICS.dlq
    shop.bus.script.extend(["full", "lost", "ok"])
    await shop.worker(ScriptedEngine())
    await shop.bus.send(REQUESTS, b"", key=b"k", headers=[], partition=0)
    await shop.committed(1)
    assert len(await log_of(shop.bus, TOPICS.dlq)) == 1


async def test_what_was_cancelled_before_anybody_saw_it_is_never_run(shop):
    asked = await shop.ask()
    await shop.signal(ControlRecord(asked.id, ControlRecord.CANCEL, "g"))
    engine = ScriptedEngine()
    await shop.worker(engine)
    later = await shop.ask(partition=1)
    await shop.signal(ControlRecord(later.id, ControlRecord.CANCEL, "g"))
    await shop.committed(1)
    assert asked.id not in [job.id for job in engine.jobs]


async def test_what_expired_in_the_queue_is_never_run_though_no_cancel_has_come_yet(shop):
    engine = ScriptedEngine(slow())
    await shop.worker(engine, concurrency=1)
    first = await shop.ask()
    await reached(engine)
    late = await shop.ask(seconds=1)
    await asyncio.sleep(1.5)  # within the leeway for clocks that differ
    await send_reply(shop.bus, ReplyRecord(late.id, "g", FINAL, outcome=EXPIRED, by_gateway=True))
    hold_of(engine.given[0]).released.set()
    await shop.ended(first)
    await shop.committed(2)
    assert [job.id for job in engine.jobs] == [first.id]


async def test_a_cancel_ends_the_upstreams_work_and_frees_the_slot(shop):
    engine = ScriptedEngine(slow())
    await shop.worker(engine, concurrency=1)
    asked, behind = await shop.ask(), await shop.ask()
    await reached(engine)
    await send_reply(
        shop.bus,
        ReplyRecord(asked.id, "g", FINAL, 0, b"{}", status=409, outcome=CANCELLED, by_gateway=True),
    )
    await shop.signal(ControlRecord(asked.id, ControlRecord.CANCEL, "g"))
    assert (await shop.ended(behind)).state.outcome == COMPLETED
    assert engine.given[0].closed
    await shop.committed(2)
    assert (await shop.seen(asked)).state.outcome == CANCELLED


async def test_a_cancel_of_something_else_changes_nothing(shop):
    engine = ScriptedEngine(slow())
    await shop.worker(engine)
    asked = await shop.ask()
    await reached(engine)
    await shop.signal(ControlRecord("f" * 32, ControlRecord.CANCEL, "g"))
    await shop.bus.send(TOPICS.control, b"", key=b"k", headers=[("v", b"1")])
    await asyncio.sleep(1)
    hold_of(engine.given[0]).released.set()
    assert (await shop.ended(asked)).state.outcome == COMPLETED


async def test_whoever_is_superseded_drops_its_upstream_and_leaves_the_rest_to_the_other(shop):
    engine = ScriptedEngine(slow())
    worker = await shop.worker(engine)
    asked = await shop.ask()
    await reached(engine)
    other = shop.peer("other")
    await other.says(running=(asked.id,))
    await shop.claims(asked, "other", worker.owner, signal=True)
    await until(lambda: engine.given[0].closed)
    await asyncio.sleep(20)
    assert len(engine.jobs) == 1, "it waits for the other"
    await send_reply(
        shop.bus,
        ReplyRecord(
            asked.id,
            "other",
            FINAL,
            (await shop.seen(asked)).state.next_seq,
            b"",
            outcome=COMPLETED,
        ),
    )
    await other.says(running=())
    await shop.committed(1)
    assert (await shop.seen(asked)).state.writer == "other"


async def test_whoever_is_superseded_takes_over_again_when_the_other_falls_silent(shop):
    engine = ScriptedEngine(slow())
    worker = await shop.worker(engine)
    asked = await shop.ask(body=LIMITED)
    await reached(engine)
    other = shop.peer("other")
    await other.says(running=(asked.id,))
    await shop.claims(asked, "other", worker.owner, signal=True)
    await until(lambda: engine.given[0].closed)
    await other.falls_silent()
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text), seen.state.writer) == (
        COMPLETED,
        tokens(5),
        worker.owner,
    )


async def test_a_claim_that_does_not_count_stops_nobody(shop):
    engine = ScriptedEngine(slow())
    await shop.worker(engine)
    asked = await shop.ask()
    await reached(engine)
    await shop.claims(asked, "other", "somebody else", signal=True)
    await asyncio.sleep(1)
    hold_of(engine.given[0]).released.set()
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text), len(engine.jobs)) == (COMPLETED, tokens(5), 1)


async def test_draining_takes_nothing_new_and_finishes_what_runs(shop):
    engine = ScriptedEngine(slow())
    worker = await shop.worker(engine)
    asked = await shop.ask()
    await reached(engine)
    draining = asyncio.create_task(worker.drain(30))
    await asyncio.sleep(1)
    new = await shop.ask()
    await asyncio.sleep(5)
    assert not draining.done()
    hold_of(engine.given[0]).released.set()
    await draining
    assert (await shop.seen(asked)).state.outcome == COMPLETED
    assert (await kinds(shop, new), len(engine.jobs)) == ([], 1)


async def test_what_is_handed_back_is_continued_by_the_next_and_is_no_death(shop):
    engine, next_engine = ScriptedEngine(slow()), ScriptedEngine()
    worker = await shop.worker(engine)
    asked, waiting = await shop.ask(body=LIMITED), await shop.ask(maybe_duplicate=True)
    await reached(engine)
    await worker.drain(5)
    assert engine.given[0].closed
    await shop.worker(next_engine)
    seen = await shop.ended(asked, seconds=5)
    assert (seen.state.outcome, text_of(seen.text), seen.deaths, seen.state.attempts) == (
        COMPLETED,
        tokens(5),
        0,
        2,
    )
    assert (await shop.ended(waiting)).state.outcome == COMPLETED


async def test_one_that_let_go_before_it_wrote_anything_has_not_died_of_it(shop):
    asked = await shop.ask()
    engine = ScriptedEngine(ScriptedAnswer([Hold()]))
    worker = await shop.worker(engine)
    await reached(engine)
    await worker.drain(0)
    await shop.worker(ScriptedEngine())
    seen = await shop.ended(asked, seconds=5)
    assert (seen.state.outcome, seen.deaths, seen.state.attempts) == (COMPLETED, 0, 2)


async def test_a_record_that_was_not_taken_when_its_worker_let_go_does_not_come_back_from_the_dead(
    shop,
):
    engine, next_engine = ScriptedEngine(slow()), ScriptedEngine()
    worker = await shop.worker(engine)
    asked = await shop.ask(body=LIMITED)
    shop.bus.script.extend(["ok"] + ["lost"] * 3)
    await until(lambda: len(shop.bus.script) == 2)
    shop.bus.script.clear()
    await worker.drain(0)
    await shop.worker(next_engine)
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(5))
    assert worker.owner not in [part.owner for part in seen.parts[1:]]


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_request_that_was_written_twice_is_run_once(shop, partition):
    engine = ScriptedEngine()
    await shop.worker(engine)
    asked = await shop.ask()
    await send_request(shop.bus, asked, partition)
    await shop.ended(asked)
    await shop.committed(2 - partition)
    await shop.committed(partition, partition=1)
    assert len(engine.jobs) == 1


@pytest.mark.parametrize("copies", [2, 3])
async def test_a_request_that_lies_twice_in_what_a_dead_worker_left_is_run_once(shop, copies):
    asked = await shop.ask()
    for _ in range(copies - 1):
        await send_request(shop.bus, asked, 1)
    engine = ScriptedEngine()
    await shop.worker(engine, concurrency=5)
    seen = await shop.ended(asked)
    await shop.committed(1)
    await shop.committed(copies - 1, partition=1)
    assert (text_of(seen.text), len(engine.jobs), seen.state.attempts) == (tokens(5), 1, 1)


async def test_a_slot_is_not_lost_to_a_request_that_turns_out_to_run_already(shop):
    engine = ScriptedEngine(*[slow() for _ in range(5)])
    await shop.worker(engine, concurrency=2)
    busy = [await shop.ask(), await shop.ask()]
    await reached(engine, 2)
    twice = await shop.ask(maybe_duplicate=True)
    await send_request(shop.bus, twice, 1)
    await asyncio.sleep(1)
    hold_of(engine.given[0]).released.set()
    await reached(engine, 3)
    hold_of(engine.given[1]).released.set()
    await asyncio.sleep(1)
    hold_of(engine.given[2]).released.set()
    for one in (*busy, twice):
        await shop.ended(one)
    await shop.ask()
    await shop.ask()
    await reached(engine, 5)
    assert [job.id for job in engine.jobs].count(twice.id) == 1
    for answer in engine.given[3:]:
        hold_of(answer).released.set()
    await shop.committed(5)
