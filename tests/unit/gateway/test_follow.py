"""Replies read from the log by many at once: few readers, and each follower gets each record of its own once, in order."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from app.bus.base import From, LogReader, OnRecords, Record
from app.bus.specs import shared_specs
from app.contracts.envelope import Reply
from app.errors import BusError
from app.gateway.follow import Follower, ReplyFollowers
from tests.unit.scene import TOPICS, ScriptedBus, send_reply, settings, turns, until

_OPENING = 0.01  # seconds; closing takes as long
IDS = [f"{number:032x}" for number in range(6)]


class CountingBus(ScriptedBus):
    """Knows its readers that are open, how many there were, the most at once, and how many records they were handed.

    Each reader lags behind the log by the next of `lags`, seconds.
    """

    def __init__(self, *lags: float) -> None:
        super().__init__()
        self.opened = self.open = self.most = self.handed = 0
        self.refuses = False
        self._lags = cycle(lags or (0.0,))

    async def log_reader(self, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords) -> LogReader:
        lag, closed = next(self._lags), False

        def handed(records: Sequence[Record]) -> None:
            if not closed:
                self.handed += len(records)
                on_records(records)

        def late(records: Sequence[Record]) -> None:
            asyncio.get_running_loop().call_later(lag, handed, records)

        if self.refuses:
            raise BusError("away")
        await asyncio.sleep(_OPENING)
        reader = await super().log_reader(topic, partitions, begin, late if lag else handed)
        self.opened += 1
        self.open += 1
        self.most = max(self.most, self.open)
        close = reader.close

        async def closing() -> None:
            nonlocal closed
            self.open -= 1
            await asyncio.sleep(_OPENING)
            closed = True
            await close()

        reader.close = closing  # type: ignore[method-assign]
        return reader


class Log:
    """A partition of replies, and who follows what of it."""

    def __init__(self, bus: CountingBus) -> None:
        self.bus = bus
        self.followers = ReplyFollowers(bus, TOPICS.replies)
        self.written: list[tuple[str, int]] = []  # id, its number in the reply
        self._counts = Counter[str]()

    async def write(self, id_: str, count: int = 1, partition: int = 0) -> None:
        for _ in range(count):
            number = self._counts[id_]
            self._counts[id_] += 1
            await send_reply(self.bus, Reply(id_, "w", "data", number), partition)
            self.written.append((id_, number))

    def reader(self, id_: str, begin: int = 0, most: int = 10**6, partition: int = 0) -> "Reader":
        return Reader(self, id_, begin, most, partition)

    def expected(self, id_: str, begin: int, most: int) -> list[int]:
        return [number for other, number in self.written[begin:] if other == id_][:most]


class Reader:
    """One that follows; `most` records are enough for it."""

    def __init__(self, log: Log, id_: str, begin: int, most: int, partition: int) -> None:
        self.got: list[int] = []
        self.log, self.id, self.begin, self.most, self.partition = log, id_, begin, most, partition
        self.task: asyncio.Task[Follower] = asyncio.create_task(log.followers.follow(partition, begin, id_, self._feed))

    def _feed(self, record: Record) -> bool:
        self.got.append(Reply.decode(record.headers, record.value).seq)
        return len(self.got) < self.most

    async def leave(self) -> None:
        self.log.followers.leave(self.partition, await self.task)

    def check(self) -> None:
        assert self.got == self.log.expected(self.id, self.begin, self.most)


async def started(*lags: float) -> Log:
    bus = CountingBus(*lags)
    await bus.start()
    await bus.ensure_topics(shared_specs(settings().bus, TOPICS))
    return Log(bus)


async def test_everything_in_the_log_has_been_fed_when_a_follower_is_there():
    log = await started()
    for _ in range(700):
        await log.write(IDS[0])
        await log.write(IDS[1])
    reader = log.reader(IDS[0])
    await reader.task
    assert reader.got == list(range(700))
    reader.check()


async def test_what_comes_later_is_fed_live():
    log = await started()
    reader = log.reader(IDS[0])
    await reader.task
    for _ in range(5):
        await log.write(IDS[0])
        await log.write(IDS[1])
        await turns()
        reader.check()
    assert reader.got == list(range(5))


async def test_thousands_that_come_together_cost_one_pass():
    log = await started()
    for id_ in IDS:
        await log.write(id_, 50)
    readers = [log.reader(IDS[number % len(IDS)], begin=number % 7) for number in range(2000)]
    await asyncio.gather(*(reader.task for reader in readers))
    for reader in readers:
        reader.check()
    assert (log.bus.opened, log.bus.most) == (1, 1)


async def test_those_who_come_later_cost_one_more_reader_and_join_the_one_that_is_live():
    log = await started()
    await log.write(IDS[0], 20)
    early = log.reader(IDS[0])
    await early.task
    for number in range(10):
        late = [log.reader(IDS[number % 6], begin=number) for _ in range(20)]
        await log.write(IDS[number % 6], 3)
        await asyncio.gather(*(reader.task for reader in late))
        await log.write(IDS[number % 6], 3)
        await turns()
        for reader in (early, *late):
            reader.check()
        assert log.bus.open == 1
    assert log.bus.most == 2


@pytest.mark.parametrize("lags", [(0, 0.05), (0.05, 0), (0.05, 0.08), (0.08, 0.05)])
async def test_of_two_readers_at_different_places_the_one_behind_goes_on_for_both(lags):
    log = await started(*lags)
    await log.write(IDS[0], 5)
    early = log.reader(IDS[0])
    await early.task
    late = log.reader(IDS[0])
    for _ in range(20):
        await asyncio.sleep(0.007)
        await log.write(IDS[0])
    await late.task
    await asyncio.sleep(1)
    early.check()
    late.check()
    assert log.bus.open == 1


async def test_a_reader_that_nobody_needs_any_more_is_closed():
    log = await started()
    one, two = log.reader(IDS[0], most=2), log.reader(IDS[1])
    await asyncio.gather(one.task, two.task)
    await log.write(IDS[0], 3)
    await turns()
    assert (one.got, log.bus.open) == ([0, 1], 1)
    await two.leave()
    await turns()
    assert log.bus.open == 0
    await log.write(IDS[1])
    again = log.reader(IDS[1])
    await again.task
    again.check()
    assert log.bus.opened == 2


async def test_replies_that_have_ended_leave_no_reader_behind():
    log = await started()
    await log.write(IDS[0], 5)
    for _ in range(3):
        reader = log.reader(IDS[0], most=5)
        await reader.task
        reader.check()
        await turns()
        assert log.bus.open == 0


async def test_nobody_reads_on_for_those_who_have_enough():
    log = await started()
    await log.write(IDS[0], 10_000)
    reader = log.reader(IDS[0], most=3)
    await reader.task
    await until(lambda: not log.bus.open)
    reader.check()
    assert log.bus.handed < 5_000


async def test_a_reply_that_ends_live_leaves_no_reader_behind():
    log = await started()
    reader = log.reader(IDS[0], most=2)
    await reader.task
    await log.write(IDS[0], 2)
    await turns()
    assert (reader.got, log.bus.open) == ([0, 1], 0)


async def test_a_partition_has_readers_of_its_own():
    log = await started()
    here, there = log.reader(IDS[0]), log.reader(IDS[0], partition=1)
    await asyncio.gather(here.task, there.task)
    await log.write(IDS[0], partition=1)
    await turns()
    assert (here.got, there.got) == ([], [0])


async def test_when_the_log_cannot_be_read_all_hear_of_it_and_the_next_try_is_a_new_one():
    log = await started()
    await log.write(IDS[0])
    log.bus.refuses = True
    readers = [log.reader(IDS[0]) for _ in range(3)]
    found = await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)
    assert [type(one) for one in found] == [BusError] * 3
    log.bus.refuses = False
    reader = log.reader(IDS[0])
    await reader.task
    reader.check()


def fault(_: Record) -> bool:
    raise ValueError("of ours")


async def test_one_that_raises_hears_of_it_and_those_beside_it_read_on():
    log = await started()
    await log.write(IDS[0], 3)
    beside = log.reader(IDS[0])
    with pytest.raises(ValueError, match="of ours"):
        await log.followers.follow(0, 0, IDS[0], fault)
    await beside.task
    await log.write(IDS[0])
    await turns()
    assert beside.got == [0, 1, 2, 3]


async def test_one_that_raises_live_is_fed_no_more_and_said(caplog):
    log = await started()
    await log.followers.follow(0, 0, IDS[0], fault)
    beside = log.reader(IDS[0])
    await beside.task
    await log.write(IDS[0], 2)
    await turns()
    assert beside.got == [0, 1]
    assert [line.getMessage() for line in caplog.records] == [f"a reply cannot be read at {TOPICS.replies}[0]@0"]


async def test_a_fault_that_nobody_has_thought_of_is_told_and_the_next_is_served(monkeypatch):
    log = await started()
    await log.write(IDS[0])

    async def broken(*_: object) -> LogReader:
        raise ValueError("of ours")

    with monkeypatch.context() as patched:
        patched.setattr(log.bus, "log_reader", broken)
        with pytest.raises(ValueError, match="of ours"):
            await log.reader(IDS[0]).task
    reader = log.reader(IDS[0])
    await reader.task
    reader.check()


async def test_closing_closes_a_reader_that_has_not_caught_up():
    log = await started(60.0)
    await log.write(IDS[0])
    reader = log.reader(IDS[0])
    await until(lambda: bool(log.bus.open))
    await log.followers.close()
    await until(lambda: not log.bus.open)
    assert not reader.task.done()
    reader.task.cancel()


async def test_one_that_gives_up_while_it_waits_holds_up_nobody():
    log = await started()
    await log.write(IDS[0], 5)
    gone, stays = log.reader(IDS[0]), log.reader(IDS[0])
    await turns(1)
    gone.task.cancel()
    await stays.task
    stays.check()


async def test_closing_closes_all_readers():
    log = await started()
    await log.reader(IDS[0]).task
    await log.reader(IDS[1], partition=1).task
    await log.followers.close()
    await turns()
    assert log.bus.open == 0


MOVES = st.lists(
    st.tuples(st.just("write"), st.sampled_from(IDS[:3]), st.integers(1, 3))
    | st.tuples(st.just("follow"), st.sampled_from(IDS[:3]), st.integers(0, 8), st.integers(1, 9))
    | st.tuples(st.just("leave"), st.integers(0, 20))
    | st.tuples(st.just("turn"))
    | st.tuples(st.just("wait")),
    max_size=30,
)


@pytest.mark.parametrize("backlog", [0, 600])
@example_settings(max_examples=40)
@given(moves=MOVES, lags=st.lists(st.sampled_from([0, 0.005, 0.05]), max_size=4))
async def test_whoever_comes_and_goes_whenever_nobody_is_fed_twice_or_out_of_order_or_too_little(backlog, moves, lags):
    log = await started(*lags)
    await log.write(IDS[5], backlog)  # more than one batch
    readers: list[Reader] = []
    left: list[Reader] = []
    for name, *arguments in moves:
        if name == "write":
            await log.write(*arguments)
        elif name == "follow":
            id_, begin, most = arguments
            readers.append(log.reader(id_, begin, most))
        elif name == "leave" and readers:
            left.append(readers.pop(arguments[0] % len(readers)))
            await left[-1].leave()
        elif name == "turn":
            await turns(1)
        else:
            await asyncio.sleep(0.03)
    await asyncio.gather(*(reader.task for reader in readers))
    await asyncio.sleep(1)
    for reader in readers:
        reader.check()
    for reader in left:
        assert reader.got == log.expected(reader.id, reader.begin, reader.most)[: len(reader.got)]
    assert log.bus.most <= 2
    wanted = [reader for reader in readers if len(reader.got) < reader.most]
    await until(lambda: log.bus.open == bool(wanted))


async def test_two_followers_of_one_reply_are_two():
    log = await started()
    await log.write(IDS[0], 3)
    one, two = log.reader(IDS[0], most=1), log.reader(IDS[0])
    await asyncio.gather(one.task, two.task)
    assert (one.got, two.got) == ([0], [0, 1, 2])
