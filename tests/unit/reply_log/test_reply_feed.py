"""Replies read from the log by many at once: few readers, and each follower gets each record of its
own once, in order.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from tests.unit.reply_log.followed import IDS, Reader, started
from tests.unit.scene import turns, until


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
async def test_whoever_comes_and_goes_whenever_nobody_is_fed_twice_or_out_of_order_or_too_little(
    backlog, moves, lags
):
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
