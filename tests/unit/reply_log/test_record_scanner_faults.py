"""Look-ups when the log, or one of those who look, fails."""

import asyncio
from typing import Any

import pytest

from app.bus.base import LogReader, Record
from app.errors import BusError
from app.reply_log.record_scanner import RecordScanner, read_stretch
from tests.unit.reply_log.scanned import CountingBus, Looked, started
from tests.unit.scene import TOPICS, turns


@pytest.fixture
async def bus() -> CountingBus:
    return await started()


async def test_a_log_that_cannot_be_read_at_one_place_is_told_to_those_who_asked_there(bus):
    await bus.write("a", *["x"] * 5000, "b")
    scanner = RecordScanner(bus)
    first, second = Looked(scanner, "a", 0, 1), Looked(scanner, "b", 5001, 5002)
    bus.refuses = True
    await asyncio.sleep(0.015)
    bus.refuses = False
    found = await asyncio.gather(first.task, second.task, return_exceptions=True)
    assert ([type(one) for one in found], second.offsets) == ([BusError, int], [5001])


async def test_a_log_that_cannot_be_read_is_told_to_all_who_wait_and_to_nobody_after(bus):
    await bus.write("a")
    scanner = RecordScanner(bus)
    bus.refuses = True
    first = [Looked(scanner, "a") for _ in range(3)]
    await asyncio.sleep(0.005)
    found = await asyncio.gather(*(one.task for one in first), return_exceptions=True)
    assert [type(one) for one in found] == [BusError] * 3
    bus.refuses = False
    after = Looked(scanner, "a")
    await after.task
    assert (after.offsets, bus.open) == ([0], 0)


async def test_a_reader_that_raises_is_told_and_those_beside_it_and_after_it_are_served(bus):
    await bus.write(*"abab")
    scanner = RecordScanner(bus)

    def fault(_: Record) -> None:
        raise ValueError("of ours")

    beside = Looked(scanner, "b")
    with pytest.raises(ValueError, match="of ours"):
        await scanner.look(TOPICS.replies, 0, "a", 0, fault)
    assert await beside.task == 0
    after = Looked(scanner, "a")
    assert await after.task == 0
    assert (beside.offsets, after.offsets, bus.open) == ([1, 3], [0, 2], 0)


async def test_an_unexpected_fault_of_the_bus_is_raised_and_later_calls_are_served(
    bus, monkeypatch
):
    await bus.write("a")
    scanner = RecordScanner(bus)

    async def fault(*_: Any) -> LogReader:
        raise ValueError("of ours")

    with monkeypatch.context() as patched:
        patched.setattr(bus, "log_reader", fault)
        with pytest.raises(ValueError, match="of ours"):
            await scanner.look(TOPICS.replies, 0, "a", 0, print)
    after = Looked(scanner, "a")
    assert await after.task == 0
    assert after.offsets == [0]


async def test_whoever_reads_a_stretch_hears_of_its_own_fault(bus):
    await bus.write(*"aa")
    with pytest.raises(ZeroDivisionError):
        await read_stretch(bus, TOPICS.replies, 0, 0, None, lambda records: 1 // 0)
    assert bus.open == 0


async def test_one_who_gives_up_waiting_holds_up_nobody(bus):
    await bus.write("a")
    scanner = RecordScanner(bus)
    gone, stays = Looked(scanner, "a"), Looked(scanner, "a")
    await turns(1)
    gone.task.cancel()
    await stays.task
    assert (stays.offsets, bus.open) == ([0], 0)
