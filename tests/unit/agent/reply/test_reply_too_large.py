"""A part of a reply that the log will never take: the reply ends with an error, in order, and holds
up nobody.
"""

import asyncio
from typing import Any

import orjson
import pytest

from app.agent.reply.reply_batcher import ReplyBatcher
from app.agent.reply.reply_writer import ReplyWriter
from app.bus.topic_configs import largest_record
from app.errors import ReplyTooLarge
from app.protocol.records import MAX_REPLY_RECORD_BYTES, ReplyRecord
from app.protocol.reply_state import COMPLETED, DATA, EXPIRED, FAILED
from app.protocol.reply_view import ReplyView
from tests.numbered import sse
from tests.unit.agent.reply.test_reply_batcher import IDS
from tests.unit.agent.scripted_engine import Hold, ScriptedAnswer, ScriptedEngine, stream
from tests.unit.agent.shop import PLAIN, Shop, asked, error_of
from tests.unit.agent.workshop import workshop
from tests.unit.scene import (
    HELD,
    TOPICS,
    ScriptedBus,
    replies,
    send_reply,
    settings,
    started_bus,
    text_of,
    turns,
)

LIMIT = 100_000
TOO_LARGE = sse({"delta": "x" * largest_record(settings(MAX_BODY_BYTES=str(LIMIT)).bus)})


async def small_bus() -> ScriptedBus:
    """Its reply topic takes what a deployment's with a small MAX_BODY_BYTES takes."""
    return await started_bus(MAX_BODY_BYTES=str(LIMIT))


async def shop(*answers: ScriptedAnswer) -> Shop:
    return Shop(await small_bus(), ScriptedEngine(*answers))


def writer(bus: ScriptedBus, **begin: int) -> ReplyWriter:
    return ReplyWriter(ReplyBatcher(bus, TOPICS.replies, lambda: True), 0, "00", "a", **begin)


async def counted(bus: ScriptedBus, **fold: Any) -> ReplyView:
    """What a reader keeps of it."""
    seen = ReplyView()
    seen.state.next_seq = fold.get("seq", 0)
    for reply in await replies(bus):
        seen.apply_record(reply)
    return seen


async def test_in_the_middle_of_a_stream_it_ends_it_with_an_error_event():
    begun = stream(PLAIN)[:3]
    at = await shop(ScriptedAnswer([*begun, TOO_LARGE, *stream(PLAIN)[3:]]))
    seen = await at.run(asked())
    assert seen.text.startswith(b"".join(begun))
    assert (error_of(seen.text)["type"], error_of(seen.text)["code"]) == (
        "server_error",
        "reply_too_large",
    )
    assert (seen.state.outcome, seen.parts[-1].code) == (FAILED, "reply_too_large")
    assert text_of(seen.text) == text_of(b"".join(begun)), "nothing of what came behind it"
    assert at.engine.given[0].closed


async def test_before_anything_else_of_a_stream_it_is_a_reply_with_a_status_of_its_own():
    at = await shop(ScriptedAnswer([TOO_LARGE, *stream(PLAIN)]))
    (part,) = (await at.run(asked())).parts
    assert (part.seq, part.event, part.status, part.outcome) == (0, 1, 502, FAILED)
    assert (dict(part.head)["content-type"], dict(part.head)["x-should-retry"]) == (
        "application/json",
        "false",
    )
    assert orjson.loads(part.value)["error"]["code"] == "reply_too_large"


async def test_of_a_stream_that_another_worker_began_it_is_an_error_event():
    at = await shop(ScriptedAnswer([TOO_LARGE]))
    at.context.continues = True
    req, begun = asked(), b"".join(piece for piece in stream(PLAIN)[:3] if isinstance(piece, bytes))
    for reply in (
        ReplyRecord(req.id, "dead", DATA, 0, begun),
        ReplyRecord(req.id, "worker-1", "claim", supersedes="dead"),
    ):
        await send_reply(at.bus, reply)
    seen = await at.run(req, await at.lookup.look(req))
    assert (error_of(seen.text)["code"], seen.parts[-1].status, seen.parts[-1].seq) == (
        "reply_too_large",
        200,
        1,
    )


async def test_a_whole_reply_is_cut_into_records_that_the_log_takes():
    body = orjson.dumps({"text": "x" * 3 * MAX_REPLY_RECORD_BYTES})
    at = await shop(ScriptedAnswer([body], headers=(("content-type", "application/json"),)))
    seen = await at.run(asked(stream=False))
    assert (seen.text, seen.state.outcome) == (body, COMPLETED)


async def test_the_deadline_ends_a_reply_whose_last_record_was_too_large():
    hold = Hold()
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:2], TOO_LARGE, hold]))
    at.bus.script.extend([HELD])
    running = asyncio.create_task(at.run(asked(seconds=30)))
    await asyncio.sleep(40)
    at.bus.release()
    seen = await running
    assert (seen.state.outcome, error_of(seen.text)["code"]) == (EXPIRED, "deadline_exceeded")


async def test_its_number_is_the_next_ones_and_what_waited_behind_it_is_gone():
    bus = await small_bus()
    bus.script.extend([HELD])
    out = writer(bus, seq=4, event=9)
    for block in (b"data: 1\n\n", TOO_LARGE, b"data: 3\n\n"):
        out.write(block)
    bus.release()
    with pytest.raises(ReplyTooLarge):
        await out.settled()
    assert out.begun
    await out.finish(FAILED, b"data: error\n\n", code="x")
    seen = await counted(bus, seq=4)
    assert [(part.seq, part.event, part.value) for part in seen.parts] == [
        (4, 9, b"data: 1\n\n"),
        (5, 10, b"data: error\n\n"),
    ]
    assert seen.state.outcome == FAILED


async def test_an_end_that_waits_behind_it_is_not_written():
    bus = await small_bus()
    out = writer(bus)
    out.start(200, ())
    out.write(TOO_LARGE)
    with pytest.raises(ReplyTooLarge):
        await out.finish(COMPLETED, b"data: [DONE]\n\n")
    assert (out.final, out.begun, await replies(bus)) == (None, False, [])


async def test_whoever_writes_on_hears_of_it():
    out = writer(await small_bus())
    out.write(TOO_LARGE)
    await turns()
    with pytest.raises(ReplyTooLarge):
        out.write(b"data: 2\n\n")


async def test_a_record_of_several_replies_that_is_too_large_goes_out_as_one_for_each():
    bus = await small_bus()
    told: list[tuple[str, str]] = []
    outbox = ReplyBatcher(bus, TOPICS.replies, lambda: True)
    bus.script.extend([HELD, HELD])
    for number, size in enumerate([1, 1, 10, 20]):
        outbox.send(
            0,
            ReplyRecord(IDS[number], "w", DATA, 0, bytes(size)),
            lambda one, error: told.append((one.id, repr(error))),
        )
    bus._topics[TOPICS.replies].largest = 25
    for _ in range(2):
        bus.release()
        await turns()
    await asyncio.sleep(1)
    assert sorted(told) == [(id_, "None") for id_ in IDS[:4]]
    assert sorted(len(reply.value) for reply in await replies(bus)) == [1, 1, 10, 20]


async def test_its_slot_is_free_again():
    async with workshop() as shop:
        await shop.worker(ScriptedEngine(ScriptedAnswer([TOO_LARGE, Hold()])), concurrency=1)
        shop.bus._topics[TOPICS.replies].largest = LIMIT
        first, second = await shop.ask(), await shop.ask()
        assert (await shop.ended(first)).parts[-1].code == "reply_too_large"
        assert (await shop.ended(second)).state.outcome == COMPLETED
