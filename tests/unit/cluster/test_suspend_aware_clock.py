"""A clock that stands still while its process does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.cluster.suspend_aware_clock import SuspendAwareClock
from tests.unit.virtual_time import stand_still


@pytest.fixture
async def clock() -> AsyncIterator[SuspendAwareClock]:
    made = SuspendAwareClock(0.5)
    made.start()
    yield made
    made.close()


async def test_awake_it_goes_as_any_other(clock: SuspendAwareClock) -> None:
    begun = clock.now()
    for seconds in (0.1, 0.5, 7.3):
        before = clock.now()
        await asyncio.sleep(seconds)
        assert clock.now() - before == pytest.approx(seconds)
    assert clock.now() - begun == pytest.approx(7.9)


async def test_of_a_standstill_it_has_two_ticks_and_goes_on_from_there(
    clock: SuspendAwareClock,
) -> None:
    await asyncio.sleep(3)
    for _ in range(2):
        before = clock.now()
        stand_still(60)
        assert 0.5 <= clock.now() - before <= 1
        frozen = clock.now()
        await asyncio.sleep(0)
        await asyncio.sleep(5)
        assert clock.now() - frozen == pytest.approx(5)


async def test_started_again_it_is_one_clock() -> None:
    clock = SuspendAwareClock(0.5)
    for _ in range(3):
        clock.start()
        await asyncio.sleep(0)
    clock.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
