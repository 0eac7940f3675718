"""The look-ups of a whole backlog in one pass, which say what a look-up of each would say."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from app.bus.base import LogReader, OnRecords
from app.bus.topic_configs import shared_specs
from app.errors import BusError
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CLAIM, COMPLETED, DATA, FINAL
from app.protocol.reply_view import ReplyView
from app.reply_log import backlog_feed as reply_tail
from app.reply_log.backlog_feed import ReplyTails
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_lookup import ReplyLookup
from tests.unit.scene import TOPICS, ScriptedBus, request, send_reply, settings, turns

IDS = [f"{number:032x}" for number in range(5)]


class CountingBus(ScriptedBus):
    """Counts its log readers, and those that are open; one may fail, or hand over nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = self.open = 0
        self.fails = self.late = False

    async def log_reader(
        self, topic: str, partitions: Any, begin: Any, on_records: OnRecords
    ) -> LogReader:
        self.opened += 1
        if self.fails:
            raise BusError("away")
        reader = await super().log_reader(
            topic, partitions, begin, (lambda _: None) if self.late else on_records
        )
        self.open += 1
        close = reader.close

        async def closing() -> None:
            self.open -= 1
            await close()

        reader.close = closing  # type: ignore[method-assign]
        return reader


class Log:
    def __init__(self, bus: CountingBus) -> None:
        self.bus = bus
        self.lookup = ReplyLookup(RecordScanner(bus), TOPICS.replies)
        self.tails = ReplyTails(bus, TOPICS.replies, self.lookup)

    async def write(self, id_: str, kind: str = DATA, seq: int = 0, **members: Any) -> int:
        return (
            await send_reply(
                self.bus,
                ReplyRecord(id_, members.pop("owner", "a"), kind, seq, b"data: x\n\n", **members),
            )
        ).offset

    def asked(self, id_: str, hint: int = 0) -> RequestRecord:
        return request(id=id_, reply_offset=hint)


@pytest.fixture
async def log() -> Log:
    return await started()


async def started() -> Log:
    bus = CountingBus()
    await bus.start()
    await bus.ensure_topics(shared_specs(settings().bus, TOPICS))
    return Log(bus)


def told(seen: ReplyView) -> Any:
    return seen.state, seen.parts, seen.deaths, seen.has_progressed, seen.is_truncated


async def test_a_backlog_of_which_nothing_is_there_costs_one_reader(log):
    for _ in range(700):
        await log.write(IDS[4])
    found = await asyncio.gather(
        *(log.tails.look(log.asked(f"{number:032x}", hint=number)) for number in range(100, 2100))
    )
    assert [seen for seen in found if seen.parts or seen.state.writer or seen.is_truncated] == []
    assert log.bus.opened == 1


async def test_a_tail_that_is_asked_on_and_on_holds_no_more_than_so_many_ids(log, monkeypatch):
    monkeypatch.setattr(reply_tail, "_MOST_IDS", 100)
    waiting = log.asked("f" * 32)
    assert not (await log.tails.look(waiting)).parts
    for number in range(1000):
        offset = await log.write(f"{number:032x}")
        await log.tails.look(log.asked(f"{number + 5000:032x}", hint=offset))
    assert log.bus.opened < 30
    (tail,) = log.tails._tails.values()
    assert len(tail.ids) + len(tail.watched) <= 101
    offset = await log.write(waiting.id, CLAIM, owner="b", supersedes="")
    assert (await log.tails.look_past(waiting, offset)).state.writer == "b", (
        "who asked of the one before is told all the same"
    )


async def test_one_that_began_with_many_is_not_begun_anew_for_each_who_asks(log, monkeypatch):
    monkeypatch.setattr(reply_tail, "_MOST_IDS", 100)
    for number in range(1000):
        await log.write(f"{number:032x}")
    for number in range(900):
        await log.tails.look(log.asked(f"{number + 5000:032x}"))
    assert log.bus.opened == 1


async def test_what_is_there_is_told_in_full(log):
    await log.write(IDS[0])
    await log.write(IDS[0], FINAL, 1, outcome=COMPLETED)
    seen = await log.tails.look(log.asked(IDS[0]))
    assert (len(seen.parts), seen.state.outcome) == (2, COMPLETED)


async def test_what_came_after_the_first_look_is_told_as_far_as_the_claim_and_on(log):
    assert (await log.tails.look(log.asked(IDS[0]))).state.writer == ""
    await log.write(IDS[0], CLAIM, owner="b", supersedes="")
    offset = await log.write(IDS[0], CLAIM, owner="a", supersedes="")
    seen = await log.tails.look_past(log.asked(IDS[0]), offset)
    assert (seen.state.writer, seen.state.attempts) == ("b", 1)
    await log.write(IDS[0], owner="b")
    assert len((await log.tails.look(log.asked(IDS[0]))).parts) == 1


async def test_an_earlier_hint_begins_anew(log):
    await log.write(IDS[0])
    await log.write(IDS[1])
    assert (await log.tails.look(log.asked(IDS[2], hint=2))).parts == []
    assert len((await log.tails.look(log.asked(IDS[0], hint=0))).parts) == 1


async def test_one_who_waits_for_the_log_is_not_lost_when_an_earlier_hint_begins_anew(log):
    await log.write(IDS[1])
    await log.tails.look(log.asked(IDS[0], hint=1))
    waiting = asyncio.create_task(log.tails.look_past(log.asked(IDS[0], hint=1), 2))
    await turns()
    await log.tails.look(log.asked(IDS[2], hint=0))
    await log.write(IDS[0], CLAIM, owner="a")
    await log.write(IDS[3])
    with pytest.raises(BusError):  # to be asked again, as when the log cannot be read
        await waiting
    assert (await log.tails.look_past(log.asked(IDS[0], hint=1), 2)).state.writer == "a"


async def test_one_who_waits_for_long_is_not_lost_when_the_tail_ends(log):
    await log.tails.look(log.asked(IDS[0]))
    waiting = asyncio.create_task(log.tails.look_past(log.asked(IDS[0]), 0))
    await asyncio.sleep(60)
    await log.write(IDS[0], CLAIM, owner="a")
    with pytest.raises(BusError):
        await waiting
    assert (await log.tails.look_past(log.asked(IDS[0]), 0)).state.writer == "a"


async def test_after_a_failure_to_begin_anew_everybody_is_served_again(log):
    await log.write(IDS[0])
    await log.tails.look(log.asked(IDS[1], hint=1))
    log.bus.fails = True
    with pytest.raises(BusError):
        await log.tails.look(log.asked(IDS[0], hint=0))
    log.bus.fails = False
    offset = await log.write(IDS[1], CLAIM, owner="a")
    async with asyncio.timeout(60):
        assert (await log.tails.look_past(log.asked(IDS[1], hint=1), offset)).state.writer == "a"


async def test_one_that_cannot_be_read_holds_up_nobody_else(log, monkeypatch):
    for id_ in IDS[:2]:
        await log.tails.look(log.asked(id_))
    read = ReplyView.apply_log_record

    def faulty(seen: ReplyView, headers: Any, value: Any, id_: bytes, timestamp: int) -> None:
        if id_ == IDS[0].encode():
            raise ValueError("of ours")
        read(seen, headers, value, id_, timestamp)

    monkeypatch.setattr(ReplyView, "apply_log_record", faulty)
    waiting = [asyncio.create_task(log.tails.look_past(log.asked(id_), 1)) for id_ in IDS[:2]]
    await turns()
    await log.write(IDS[0], CLAIM, owner="a")
    await log.write(IDS[1], CLAIM, owner="b")
    async with asyncio.timeout(60):
        assert (await waiting[1]).state.writer == "b"
        with pytest.raises(ValueError, match="of ours"):
            await waiting[0]


async def test_one_who_is_cancelled_while_it_begins_leaves_no_reader_behind(log):
    await log.write(IDS[0])
    log.bus.late = True
    asking = asyncio.create_task(log.tails.look(log.asked(IDS[1])))
    await turns()
    assert log.bus.open == 1
    asking.cancel()
    await asyncio.wait([asking])
    assert log.bus.open == 0
    log.bus.late = False
    assert not (await log.tails.look(log.asked(IDS[1]))).parts


async def test_a_tail_that_nobody_asks_ends_and_begins_anew_when_somebody_does(log):
    await log.tails.look(log.asked(IDS[0]))
    await asyncio.sleep(60)
    await log.write(IDS[0])
    assert len((await log.tails.look(log.asked(IDS[0]))).parts) == 1
    assert log.bus.opened == 3, "the old one, the new one and the full look"


async def test_a_beginning_that_is_no_longer_kept_is_told(log):
    for number in range(200):
        await send_reply(log.bus, ReplyRecord(f"{number:032x}", "x", DATA, 0, bytes(500_000)))
    assert (await log.tails.look(log.asked("f" * 32, hint=3))).is_truncated
    (_, high) = (await log.bus.ends(TOPICS.replies)).values()
    assert not (await log.tails.look(log.asked("e" * 32, hint=high or 199))).is_truncated


MOVES = st.lists(
    st.tuples(
        st.just("write"),
        st.sampled_from(IDS),
        st.sampled_from([DATA, CLAIM]),
        st.sampled_from("ab"),
        st.integers(0, 2),
    )
    | st.tuples(st.just("look"), st.sampled_from(IDS))
    | st.tuples(st.just("past"), st.sampled_from(IDS))
    | st.tuples(st.just("sleep"), st.sampled_from([0, 0.02, 15])),
    max_size=30,
)


@example_settings(max_examples=60)
@given(moves=MOVES, hints=st.lists(st.integers(0, 6), min_size=5, max_size=5))
async def test_whatever_happens_it_says_what_a_look_up_says(moves, hints):
    log = await started()
    for number in range(6):
        await log.write(f"{9 + number:032x}")
    asked = {id_: log.asked(id_, hint=hint) for id_, hint in zip(IDS, hints, strict=True)}
    for name, *arguments in moves:
        if name == "write":
            id_, kind, owner, seq = arguments
            await log.write(id_, kind, seq, owner=owner, supersedes="b" if owner == "a" else "")
        elif name == "sleep":
            await asyncio.sleep(arguments[0])
        else:
            await turns()
            ends = (await log.bus.ends(TOPICS.replies))[0]
            one = asked[arguments[0]]
            found = await (
                log.tails.look(one) if name == "look" else log.tails.look_past(one, ends - 1)
            )
            assert told(found) == told(await log.lookup.look(one))
    await log.tails.close()
