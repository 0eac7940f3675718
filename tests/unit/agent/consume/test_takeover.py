"""What one worker may have begun and another ends: held while somebody lives, claimed once, and
never run over by two.
"""

import asyncio
import time
from typing import Any

import orjson
import pytest

from app.errors import BusError
from app.openai_api.sse import DONE_EVENT
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, CLAIM, COMPLETED, FAILED, FINAL
from tests.numbered import tokens
from tests.unit.agent.counted import counted
from tests.unit.agent.scripted_engine import Hold, ScriptedAnswer, ScriptedEngine, stream
from tests.unit.agent.workshop import GROUP, Workshop
from tests.unit.scene import (
    LATE,
    LOST,
    MODEL,
    TOPICS,
    body,
    log_of,
    replies,
    request,
    send_reply,
    send_request,
    text_of,
    until,
)

PLAIN: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "count"}]}
LIMITED = body(stream=True, max_tokens=5)


def begun(count: int) -> bytes:
    """The role and so many tokens."""
    return b"".join(piece for piece in stream(PLAIN)[: count + 1] if isinstance(piece, bytes))


async def claims_of(shop: Workshop, asked: RequestRecord) -> list[ReplyRecord]:
    return [
        reply for reply in await replies(shop.bus) if reply.id == asked.id and reply.kind == CLAIM
    ]


async def test_what_nobody_has_begun_is_claimed_and_run(shop):
    asked = await shop.ask()
    worker = await shop.worker(ScriptedEngine())
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text), seen.state.attempts) == (
        COMPLETED,
        tokens(5),
        1,
    )
    assert [
        (claim.owner, claim.supersedes, claim.deaths) for claim in await claims_of(shop, asked)
    ] == [(worker.owner, "", 0)]


async def test_what_a_dead_worker_has_begun_is_continued_behind_its_last_token(shop):
    asked, takeovers = await shop.ask(body=LIMITED), counted("takeovers")
    await shop.writes(asked, "dead", begun(1), *(begun(3)[len(begun(1)) :],))
    engine = ScriptedEngine()
    await shop.worker(engine)
    seen = await shop.ended(asked)
    assert counted("takeovers") == takeovers + 1
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(5))
    assert [body["max_tokens"] for body in engine.bodies()] == [2]
    assert seen.text.count(b'"role"') == 1


async def test_what_has_ended_is_committed_and_not_run_again(shop):
    asked = await shop.ask()
    await shop.writes(asked, "dead", begun(5))
    await send_reply(
        shop.bus, ReplyRecord(asked.id, "dead", FINAL, 1, DONE_EVENT, outcome=COMPLETED)
    )
    engine = ScriptedEngine()
    await shop.worker(engine)
    await shop.committed(1)
    assert (engine.jobs, await claims_of(shop, asked)) == ([], [])


@pytest.mark.parametrize("holding", ["running", "partitions"])
async def test_what_a_peer_that_lives_has_is_held_until_it_falls_silent(shop, holding):
    asked = await shop.ask()
    peer = shop.peer("other")
    await peer.says(**{holding: (asked.id,) if holding == "running" else (0, 1)})
    engine = ScriptedEngine()
    await shop.worker(engine)
    await asyncio.sleep(30)
    assert (engine.jobs, await shop.bus.committed("llm.requests.m", GROUP)) == ([], {})
    await peer.falls_silent()
    await shop.ended(asked, seconds=10)
    assert len(engine.jobs) == 1


@pytest.mark.parametrize("how", ["says it has no more", "leaves"])
async def test_what_a_peer_lets_go_is_taken_at_once_and_is_no_death(shop, how):
    asked = await shop.ask()
    peer = shop.peer("other")
    await peer.says(running=(asked.id,), partitions=(0,))
    await shop.worker(ScriptedEngine())
    await asyncio.sleep(5)
    await peer.falls_silent()
    await peer.says(
        **({"running": (), "partitions": ()} if how == "says it has no more" else {"gone": True})
    )
    await shop.ended(asked, seconds=1)
    (claim,) = await claims_of(shop, asked)
    assert claim.deaths == 0


async def test_when_the_peer_ends_it_nothing_is_run(shop):
    asked = await shop.ask()
    peer = shop.peer("other")
    await peer.says(running=(asked.id,))
    engine = ScriptedEngine()
    await shop.worker(engine)
    await asyncio.sleep(5)
    await send_reply(
        shop.bus, ReplyRecord(asked.id, "other", FINAL, 0, b"{}", status=200, outcome=COMPLETED)
    )
    await peer.says(running=())
    await shop.committed(1)
    assert engine.jobs == []


async def test_of_two_that_claim_at_once_one_replies(shop):
    asked = [await shop.ask(partition=number % 2) for number in range(10)]
    engines = [ScriptedEngine(), ScriptedEngine()]
    workers = [
        await shop.worker(engine, group=group, concurrency=20, join=False)
        for engine, group in zip(engines, ("one", "two"), strict=True)
    ]
    await asyncio.gather(*(worker.start() for worker in workers))
    for one in asked:
        seen = await shop.ended(one)
        assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(5))
        writers = {
            reply.owner
            for reply in await replies(shop.bus)
            if reply.id == one.id and reply.kind != CLAIM
        }
        assert len(writers) == 1, "only one of them began to write"
    assert sum(len(engine.jobs) for engine in engines) == len(asked)
    for group in ("one", "two"):
        await shop.committed(5, group)


async def test_a_zombies_late_records_are_not_there_for_a_reader(shop):
    asked = await shop.ask(body=LIMITED)
    await shop.writes(asked, "zombie", begun(2))
    hold = Hold()
    engine = ScriptedEngine(ScriptedAnswer([hold]))
    await shop.worker(engine)
    await hold.reached.wait()
    await shop.writes(asked, "zombie", b"data: from the grave\n\n", seq=1)
    await send_reply(
        shop.bus, ReplyRecord(asked.id, "zombie", FINAL, 1, b"data: over\n\n", outcome=FAILED)
    )
    hold.released.set()
    seen = await shop.ended(asked)
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(5))


@pytest.mark.parametrize("fate", [LOST, LATE])
async def test_a_claim_that_the_log_does_not_take_is_sent_again_and_counts_once(shop, fate):
    asked = await shop.ask()
    shop.bus.script.extend([fate, fate])
    engine = ScriptedEngine()
    await shop.worker(engine)
    seen = await shop.ended(asked)
    assert (seen.state.attempts, text_of(seen.text), len(engine.jobs)) == (1, tokens(5), 1)


async def test_a_log_that_cannot_be_read_is_asked_again(shop, monkeypatch):
    asked = await shop.ask()
    read, refused = shop.bus.log_reader, []

    async def reader(topic: str, *rest: Any) -> Any:
        if topic == TOPICS.replies and len(refused) < 3:
            refused.append(topic)
            raise BusError("away")
        return await read(topic, *rest)

    monkeypatch.setattr(shop.bus, "log_reader", reader)
    await shop.worker(ScriptedEngine())
    await until(lambda: len(refused) == 3)
    assert text_of((await shop.ended(asked)).text) == tokens(5)


async def test_what_a_gateway_has_ended_meanwhile_is_not_run(shop):
    asked = await shop.ask()
    peer = shop.peer("other")
    await peer.says(running=(asked.id,))
    engine = ScriptedEngine()
    await shop.worker(engine)
    await asyncio.sleep(5)
    await send_reply(
        shop.bus,
        ReplyRecord(asked.id, "g", FINAL, 0, b"{}", status=409, outcome=CANCELLED, by_gateway=True),
    )
    await peer.falls_silent()
    await shop.committed(1)
    assert engine.jobs == []


async def test_a_worker_that_died_with_it_counts_once_and_progress_forgives(shop):
    asked = await shop.ask(body=LIMITED, deaths=2)
    await shop.writes(asked, "dead-1", begun(1))
    await shop.worker(ScriptedEngine())
    await shop.ended(asked)
    assert [claim.deaths for claim in await claims_of(shop, asked)] == [0, 1, 0]


async def test_one_that_fell_silent_before_it_wrote_is_a_death_too_and_a_takeover(shop):
    before = counted("takeovers")
    asked = await shop.ask()
    peer = shop.peer("other")
    await peer.says(running=(asked.id,))
    await shop.worker(ScriptedEngine())
    await asyncio.sleep(5)
    await peer.falls_silent()
    await shop.ended(asked)
    assert [claim.deaths for claim in await claims_of(shop, asked)] == [1]
    assert counted("takeovers") - before == 1


async def test_one_that_was_only_silent_and_is_heard_again_has_not_died(shop):
    asked = request(now=time.time())
    await shop.claims(asked, "sleeper")
    await send_reply(
        shop.bus,
        ReplyRecord(asked.id, "killed", CLAIM, supersedes="sleeper", deaths=1, dead=("sleeper",)),
    )
    await send_request(shop.bus, asked, 0)
    await shop.peer("sleeper").says()
    await shop.worker(ScriptedEngine())
    await shop.ended(asked)
    claim = (await claims_of(shop, asked))[-1]
    assert (claim.supersedes, claim.deaths, claim.dead) == ("killed", 1, ("killed",))


async def test_a_suspect_runs_alone(shop):
    engine = ScriptedEngine(
        ScriptedAnswer([Hold(), *stream(PLAIN)]), ScriptedAnswer([Hold(), *stream(PLAIN)])
    )
    await shop.worker(engine)
    innocent = await shop.ask(partition=1)
    await until(lambda: len(engine.given) == 1)
    suspect = await shop.ask(maybe_duplicate=True, deaths=2)
    await asyncio.sleep(5)
    another = await shop.ask(partition=1)
    await asyncio.sleep(5)
    assert len(engine.jobs) == 1, "it waits until nothing else runs, and nothing new begins"
    engine.given[0].pieces[0].released.set()  # type: ignore[union-attr]
    await shop.ended(innocent)
    await until(lambda: len(engine.given) == 2)
    await asyncio.sleep(5)
    assert engine.jobs[1].id == suspect.id
    assert len(engine.jobs) == 2, "nothing runs beside it"
    engine.given[1].pieces[0].released.set()  # type: ignore[union-attr]
    assert (await shop.ended(suspect)).deaths == 2
    assert (await shop.ended(another)).state.outcome == COMPLETED


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_has_ended_three_workers_is_a_dead_letter_and_the_partition_goes_on(
    shop, streamed
):
    asked = await shop.ask(stream=streamed, deaths=3)
    behind = await shop.ask()
    engine = ScriptedEngine()
    await shop.worker(engine)
    (part,) = (await shop.ended(asked)).parts
    assert (part.outcome, part.status, part.code) == (FAILED, 500, "dead_lettered")
    assert (await shop.ended(behind)).state.outcome == COMPLETED
    assert [job.id for job in engine.jobs] == [behind.id]
    (letter,) = await log_of(shop.bus, TOPICS.dlq)
    headers = dict(letter.headers)
    assert letter.value == asked.body
    assert (headers["dlq-origin"], headers["id"], headers["path"]) == (
        b"llm.requests.m/0/0",
        asked.id.encode(),
        asked.path.encode(),
    )
    assert b"died" in headers["dlq-reason"]
    await shop.committed(2)


async def test_a_reply_whose_beginning_is_no_longer_kept_is_never_run_over(shop):
    first = [await shop.ask() for _ in range(3)]
    for number in range(200):
        await send_reply(
            shop.bus,
            ReplyRecord(
                f"{number:032x}", "x", FINAL, 0, bytes(500_000), status=200, outcome=COMPLETED
            ),
        )
    engine = ScriptedEngine()
    await shop.worker(engine)
    for asked in first:
        (part,) = (await shop.ended(asked)).parts
        assert (part.status, orjson.loads(part.value)["error"]["code"]) == (
            502,
            "reply_log_truncated",
        )
    assert engine.jobs == []


async def test_many_that_were_left_behind_are_each_run_once(shop):
    asked = [await shop.ask(partition=number % 2) for number in range(100)]
    for one in asked[:30]:
        await shop.writes(one, "dead", begun(2))
    engine = ScriptedEngine()
    await shop.worker(engine, concurrency=3)
    for one in asked:
        seen = await shop.ended(one)
        assert text_of(seen.text) == tokens(5 if one not in asked[:30] else 7)
    assert sorted(job.id for job in engine.jobs) == sorted(one.id for one in asked)
