"""Replies of many requests on their way to one partition: at once while few are under way, joined
while many are.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.reply.reply_batcher import PACE_SECONDS, ReplyBatcher
from app.agent.reply.reply_writer import ReplyWriter
from app.inference.pending_request import PendingRequest
from app.inference.reply_consumer import ReplyConsumer
from app.protocol.records import MAX_REPLY_RECORD_BYTES, ReplyRecord
from app.protocol.reply_batch import decode_replies, record_ids
from app.protocol.reply_state import COMPLETED, DATA
from app.protocol.reply_view import ReplyView
from app.reply_log.backlog_feed import ReplyTails
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_feed import ReplyFollowers
from app.reply_log.reply_lookup import ReplyLookup
from tests.unit.scene import (
    FULL,
    HELD,
    LATE,
    LOST,
    MODEL,
    OK,
    REQUESTS,
    TOPICS,
    ScriptedBus,
    log_of,
    request,
    started_bus,
    turns,
)
from tests.unit.virtual_time import VirtualLoop

IDS = [f"{number:032x}" for number in range(8)]


class Post:
    """An outbox, and what its senders were told."""

    def __init__(self, bus: ScriptedBus, *, may_join: bool = True) -> None:
        self.bus = bus
        self.outbox = ReplyBatcher(bus, TOPICS.replies, lambda: may_join)
        self.told: list[tuple[str, bool]] = []

    def send(self, *numbers: int, size: int = 10, partition: int = 0, seq: int = 0) -> None:
        for number in numbers:
            reply = ReplyRecord(IDS[number], "w", DATA, seq, b"%d" % number * size)
            self.outbox.send(
                partition, reply, lambda one, error: self.told.append((one.id, error is None))
            )

    async def records(self, partition: int = 0) -> list[list[int]]:
        """Whose replies are in each record."""
        found = await log_of(self.bus, TOPICS.replies, partition)
        return [[int(id_, 16) for id_ in record_ids(record.headers)] for record in found]


async def test_the_first_records_go_out_as_they_come_and_what_comes_then_goes_out_as_one():
    post = Post(await started_bus())
    post.bus.script.extend([HELD, HELD, OK])
    post.send(0, 1, 2, 3, 4)
    assert await post.records() == [[0], [1]]
    post.bus.release()
    await turns()
    assert await post.records() == [[0], [1], [2, 3, 4]]
    assert post.told == [(IDS[number], True) for number in (0, 2, 3, 4)]


async def test_what_the_acknowledged_send_in_turn_goes_out_together():
    post = Post(await started_bus())
    post.bus.script.extend([HELD, HELD, HELD])

    def goes_on(reply: ReplyRecord, error: BaseException | None) -> None:
        post.outbox.send(0, ReplyRecord(reply.id, "w", DATA, 1), lambda *_: None)

    post.send(0, 1)
    for number in (2, 3):
        post.outbox.send(0, ReplyRecord(IDS[number], "w", DATA, 0), goes_on)
    while post.bus.held:
        post.bus.release()
        await asyncio.sleep(PACE_SECONDS)
    assert await post.records() == [[0], [1], [2, 3], [2, 3]]


async def test_what_goes_on_waits_for_a_moment_after_a_record():
    post = Post(await started_bus())
    post.send(0, seq=1)
    await turns()
    post.send(1, 2, seq=1)
    await turns()
    assert await post.records() == [[0]]
    await asyncio.sleep(PACE_SECONDS)
    assert await post.records() == [[0], [1, 2]]


async def test_what_begins_a_reply_does_not_wait_and_takes_along_what_does():
    post = Post(await started_bus())
    post.send(0, seq=1)
    await turns()
    post.send(1, seq=1)
    post.send(2)
    assert await post.records() == [[0], [1, 2]]


async def test_one_stream_alone_does_not_wait():
    post = Post(await started_bus())
    for seq in range(3):
        post.send(0, seq=seq)
        assert len(await post.records()) == seq + 1
        await asyncio.sleep(PACE_SECONDS)


async def test_partitions_do_not_wait_for_each_other():
    post = Post(await started_bus())
    post.bus.script.extend([HELD, HELD])
    post.send(0, 1, 2)
    post.send(3, partition=1)
    assert (await post.records(), await post.records(1)) == ([[0], [1]], [[3]])


async def test_nothing_is_joined_while_somebody_cannot_read_it():
    post = Post(await started_bus(), may_join=False)
    post.bus.script.extend([HELD] * 4)
    post.send(0, 1, 2, 3)
    assert await post.records() == [[0], [1], [2], [3]]


async def test_a_record_is_no_larger_than_a_reply_s_may_be():
    post = Post(await started_bus())
    post.bus.script.extend([HELD, HELD])
    post.send(0, 1)
    post.send(2, 3, 4, size=MAX_REPLY_RECORD_BYTES // 2)
    post.send(5, size=MAX_REPLY_RECORD_BYTES)
    post.bus.release()
    await asyncio.sleep(3 * PACE_SECONDS)
    assert await post.records() == [[0], [1], [2, 3], [4], [5]]


@pytest.mark.parametrize("fate", [LOST, LATE, FULL])
async def test_what_the_log_does_not_take_is_said_to_each(fate):
    post = Post(await started_bus())
    post.bus.script.extend([HELD, HELD, fate])
    post.send(0, 1, 2, 3)
    post.bus.release()
    await turns()
    assert post.told == [(IDS[0], True), (IDS[2], False), (IDS[3], False)]
    post.send(4)
    await turns()
    assert post.told[-1] == (IDS[4], True)


@given(st.lists(st.sampled_from([OK, LOST, LATE, FULL, HELD]), max_size=30))
def test_every_reader_has_every_reply_whole_whatever_the_log_does(script):
    """Four streams at once, and all who read: a look-up, a tail, a follower, the gateway's
    inbox.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_all_read(script))


async def _all_read(script: list[str]) -> None:
    bus = await started_bus()
    inbox, followers, lookup = (
        ReplyConsumer(bus, TOPICS.replies),
        ReplyFollowers(bus, TOPICS.replies),
        ReplyLookup(RecordScanner(bus), TOPICS.replies),
    )
    await inbox.start([1, 1])
    assert inbox.partition == 0
    requests = [request(id=id_) for id_ in IDS[:4]]
    calls = [PendingRequest(one, REQUESTS, MODEL) for one in requests]
    for one in calls:
        inbox.add_request(one)
    tails = ReplyTails(bus, TOPICS.replies, lookup)
    for one in requests[:2]:
        await tails.look(one)  # watched from the beginning on
    bus.script.extend(script)
    outbox = ReplyBatcher(bus, TOPICS.replies, lambda: True)
    writing = asyncio.gather(*(_write(outbox, one.id) for one in requests))
    while not writing.done():
        if bus.held:
            bus.release()
        await asyncio.sleep(0.005)
    end = (await bus.ends(TOPICS.replies))[0]
    for number, one in enumerate(requests):
        seen, followed = await lookup.look(one), ReplyView()
        tailed = await tails.look_past(one, end - 1)
        follower = await followers.follow(
            0, 0, one.id, lambda record, id_=one.id, into=followed: _keep(into, record, id_)
        )
        followers.leave(0, follower)
        fed = b"".join([part.value for part in await calls[number].read_whole_reply(1) or []])
        assert (
            seen.text
            == tailed.text
            == followed.text
            == fed
            == b"".join(_event(one.id, step) for step in range(4))
        )
        assert seen.state.outcome == tailed.state.outcome == followed.state.outcome == COMPLETED
    await tails.close()
    await followers.close()
    await inbox.close()


def _keep(into: ReplyView, record, id_: str) -> bool:
    for reply in decode_replies(record.headers, record.value, (id_.encode(),)):
        into.apply_record(reply)
    return True


async def _write(outbox: ReplyBatcher, id_: str) -> None:
    writer = ReplyWriter(outbox, 0, id_, "w")
    writer.start(200, ())
    for step in range(3):
        writer.write(_event(id_, step))
        await asyncio.sleep(0)
    await writer.finish(COMPLETED, _event(id_, 3))


def _event(id_: str, step: int) -> bytes:
    return f"data: {id_} {step}\n\n".encode()
