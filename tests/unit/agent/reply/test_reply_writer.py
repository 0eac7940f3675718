"""A reply on its way into the log: in order, without gaps, joined while the log is slow, and whole
whatever the log refuses.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.reply.reply_batcher import PACE_SECONDS, ReplyBatcher
from app.agent.reply.reply_writer import ReplyWriter
from app.openai_api.sse import count_events
from app.protocol.records import MAX_REPLY_RECORD_BYTES, ReplyRecord
from app.protocol.reply_state import COMPLETED, FAILED
from app.protocol.reply_view import ReplyView
from tests.unit.scene import (
    FULL,
    HELD,
    LATE,
    LOST,
    OK,
    TOPICS,
    ScriptedBus,
    replies,
    started_bus,
    turns,
)

ID, OWNER = "00", "a"


def writer(bus: ScriptedBus, **begin: int) -> ReplyWriter:
    return ReplyWriter(ReplyBatcher(bus, TOPICS.replies, lambda: True), 0, ID, OWNER, **begin)


def event(number: int, size: int = 0) -> bytes:
    return b"data: %d%s\n\n" % (number, b"." * size)


async def counted(bus: ScriptedBus) -> list[ReplyRecord]:
    """What a reader keeps of it."""
    seen = ReplyView()
    for reply in await replies(bus):
        seen.apply_record(reply)
    return seen.parts


async def test_light_load_is_immediate_a_record_for_each_block():
    bus = await started_bus()
    out = writer(bus)
    out.start(200, (("content-type", "text/event-stream"),))
    for number in range(3):
        out.write(event(number))
        await asyncio.sleep(PACE_SECONDS)
    await out.finish(COMPLETED, b"data: [DONE]\n\n", notes=(("worker", "a"),))
    found = await replies(bus)
    assert [(reply.kind, reply.seq, reply.event) for reply in found] == [
        ("data", n, n + 1) for n in range(3)
    ] + [("final", 3, 4)]
    assert [reply.value for reply in found] == [event(0), event(1), event(2), b"data: [DONE]\n\n"]
    assert [(reply.status, bool(reply.head)) for reply in found] == [(200, True)] + [(0, False)] * 3
    assert (found[-1].outcome, found[-1].notes) == (COMPLETED, (("worker", "a"),))


async def test_what_comes_while_a_record_is_not_acknowledged_is_joined_into_the_next():
    bus = await started_bus()
    bus.script.extend([HELD, OK])
    out = writer(bus)
    for number in range(5):
        out.write(event(number))
        await turns()
    assert [reply.value for reply in await replies(bus)] == [event(0)], (
        "one record under way at a time"
    )
    bus.release()
    await out.settled()
    assert [reply.value for reply in await replies(bus)] == [
        event(0),
        b"".join(map(event, range(1, 5))),
    ]


@given(
    sizes=st.lists(st.integers(0, 3), max_size=12),
    fates=st.lists(st.sampled_from([OK, LOST, LATE, FULL, HELD]), max_size=12),
    last=st.integers(0, 2),
    seq=st.integers(0, 3),
)
async def test_whatever_the_log_does_a_reader_finds_every_byte_once_in_order(
    sizes, fates, last, seq
):
    bus = await started_bus()
    bus.script.extend(fates)
    out = writer(bus, seq=seq, event=seq + 1)
    blocks = [b"".join(event(number) for number in range(size)) or b": none\n\n" for size in sizes]
    for block in blocks:
        out.write(block)
        await turns(2)
    ending = asyncio.create_task(out.finish(COMPLETED, event(9) * last))
    async with asyncio.timeout(600):
        while not ending.done():
            await asyncio.sleep(0.1)
            while bus.held:
                bus.release()
                await turns()
    seen = ReplyView()
    seen.state.next_seq = seq
    for reply in await replies(bus):
        seen.apply_record(reply)
    assert b"".join(part.value for part in seen.parts) == b"".join(blocks) + event(9) * last
    assert [part.seq for part in seen.parts] == list(range(seq, seq + len(seen.parts)))
    assert seen.state.outcome == COMPLETED
    number = seq + 1
    for part in seen.parts:
        assert part.event == number
        number += count_events(part.value)


async def test_blocks_are_joined_up_to_the_limit_of_a_record():
    bus = await started_bus()
    bus.script.append(HELD)
    out = writer(bus)
    out.write(event(0))
    third = MAX_REPLY_RECORD_BYTES // 3
    for number in range(1, 8):
        out.write(event(number, third - 10))
    bus.release()
    await out.settled()
    found = await replies(bus)
    assert [count_events(reply.value) for reply in found] == [1, 3, 3, 1]
    assert max(len(reply.value) for reply in found) <= MAX_REPLY_RECORD_BYTES


@pytest.mark.parametrize(
    "size",
    [0, 1, MAX_REPLY_RECORD_BYTES, MAX_REPLY_RECORD_BYTES + 1, 3 * MAX_REPLY_RECORD_BYTES + 5],
)
async def test_a_long_body_is_several_records_and_only_the_last_is_final(size):
    bus = await started_bus()
    out, value = writer(bus), bytes(size)
    out.start(200, (("content-type", "application/json"),))
    await out.finish(FAILED, value, code="x")
    found = await counted(bus)
    assert b"".join(part.value for part in found) == value
    assert max(len(part.value) for part in found) <= MAX_REPLY_RECORD_BYTES
    assert [part.kind for part in found] == ["data"] * (len(found) - 1) + ["final"]
    assert [part.status for part in found] == [200] + [0] * (len(found) - 1)
    assert (found[-1].outcome, found[-1].code) == (FAILED, "x")


@pytest.mark.parametrize("fate", [LOST, FULL, LATE])
async def test_a_record_that_was_not_taken_is_sent_again_with_its_number(fate):
    bus = await started_bus()
    bus.script.extend([fate, fate, OK])
    out = writer(bus)
    out.write(event(0))
    out.write(event(1))
    await out.settled()
    found = await replies(bus)
    assert [(reply.seq, reply.value) for reply in found if reply.seq == 0] == [(0, event(0))] * (
        3 if fate == LATE else 1
    )
    assert [part.value for part in await counted(bus)] == [event(0), event(1)]


async def test_the_end_is_reached_when_the_log_has_it():
    bus = await started_bus()
    bus.script.append(HELD)
    ending = asyncio.create_task(writer(bus).finish(COMPLETED, b"x"))
    await turns()
    assert not ending.done()
    bus.release()
    await ending


async def test_settled_waits_for_all_that_was_written():
    bus = await started_bus()
    out = writer(bus)
    await out.settled()
    bus.script.extend([HELD, HELD])
    out.write(event(0))
    out.write(event(1))
    waiting = asyncio.create_task(out.settled())
    for _ in range(2):
        await asyncio.sleep(PACE_SECONDS)
        assert not waiting.done()
        bus.release()
    await waiting


async def test_what_is_abandoned_is_not_sent_again():
    bus = await started_bus()
    bus.script.extend([LOST, OK])
    out = writer(bus)
    out.write(event(0))
    out.write(event(1))
    await turns()
    out.abandon()
    await out.settled()
    await asyncio.sleep(60)
    assert await replies(bus) == []
