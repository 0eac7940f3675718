"""Followers of replies when the log, one of them, or this process ends."""

import asyncio

import pytest

from app.bus.base import LogReader, Record
from app.errors import BusError
from tests.unit.reply_log.followed import IDS, started
from tests.unit.scene import TOPICS, turns, until


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
    assert [line.getMessage() for line in caplog.records] == [
        f"a reply cannot be read at {TOPICS.replies}[0]@0"
    ]


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
