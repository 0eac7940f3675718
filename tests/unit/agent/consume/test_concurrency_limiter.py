"""Slots: never more than there are, a suspect alone, first come first served, nothing lost to those
who give up waiting.
"""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.agent.consume.concurrency_limiter import ConcurrencyLimiter
from tests.unit.scene import turns


class Room:
    """Slots, who holds one, and who waits for one."""

    def __init__(self, count: int) -> None:
        self.slots = ConcurrencyLimiter(count)
        self.tasks: list[asyncio.Task[None]] = []
        self.alone: dict[int, bool] = {}  # by number of the task
        self.crowd: dict[int, bool] = {}
        self.entered: list[int] = []
        self.inside: list[int] = []
        self.tried = 0

    async def _enter(self, number: int) -> None:
        await self.slots.take(alone=self.alone[number], crowd=self.crowd[number])
        self.entered.append(number)
        self.inside.append(number)

    def take(self, alone: bool, crowd: bool = False) -> None:
        number = len(self.tasks)
        self.alone[number], self.crowd[number] = alone, crowd
        self.tasks.append(asyncio.create_task(self._enter(number)))

    def try_take(self) -> None:
        self.tried += self.slots.try_take()

    def give(self, which: int) -> None:
        if which < self.tried:
            self.tried -= 1
            self.slots.give()
        elif self.inside:
            self.inside.pop(which % len(self.inside))
            self.slots.give()

    def cancel(self, which: int) -> None:
        if self.tasks:
            self.tasks[which % len(self.tasks)].cancel()

    def check(self) -> None:
        lone = [number for number in self.inside if self.alone[number]]
        held = len(self.inside) + self.tried
        assert held <= self.slots.used <= self.slots.count
        assert not lone or held == 1, "a suspect has nobody beside it"
        for crowd in (False, True):
            own = [number for number in self.entered if self.crowd[number] == crowd]
            assert own == sorted(own), "first come, first served"

    async def leave(self) -> None:
        """Everybody goes, and whoever waited comes and goes."""
        while self.inside or self.tried:
            self.give(0)
            await turns(3)
            self.check()


OPS = st.lists(
    st.tuples(st.just("take"), st.booleans(), st.booleans())
    | st.tuples(st.just("try_take"))
    | st.tuples(st.just("give"), st.integers(0, 5))
    | st.tuples(st.just("cancel"), st.integers(0, 9))
    | st.tuples(st.just("turn")),
    max_size=40,
)


@given(count=st.integers(1, 4), ops=OPS)
@example(count=1, ops=[("try_take",), ("take", False, True), ("turn",), ("cancel", 0), ("give", 0)])
@example(count=1, ops=[("try_take",), ("take", False, True), ("turn",), ("give", 0), ("cancel", 0)])
async def test_whatever_comes_in_whatever_order_the_slots_are_kept(count, ops):
    room = Room(count)
    for name, *arguments in ops:
        if name == "turn":
            await turns(3)
        else:
            getattr(room, name)(*arguments)
        room.check()
    await turns(3)
    room.check()
    await room.leave()
    assert (room.slots.used, [task for task in room.tasks if not task.done()]) == (0, [])


async def test_the_crowd_and_the_others_take_turns():
    room = Room(1)
    room.try_take()
    for crowd in (True, True, True, True, False, False):
        room.take(alone=False, crowd=crowd)
    await turns()
    await room.leave()
    assert [room.crowd[number] for number in room.entered] == [False, True, False, True, True, True]


async def test_a_suspect_at_a_head_is_next_and_nobody_passes_it():
    room = Room(2)
    room.try_take()
    room.take(alone=True, crowd=True)
    room.take(alone=False, crowd=False)
    await turns()
    assert room.inside == []
    room.give(0)
    await turns()
    assert room.inside == [0]


class Newcomers:
    """Who has not come to wait yet; each takes the slot that it is offered."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.begun = 0

    def begin(self) -> bool:
        if self.begun < self.left:
            self.begun += 1
            return True
        return False


@pytest.mark.parametrize(("crowd", "begun"), [(True, [1, 1, 2, 2, 2]), (False, [0, 0, 0, 0, 0])])
async def test_a_newcomer_passes_a_waiting_crowd_every_other_time_and_nobody_else(crowd, begun):
    newcomers, room = Newcomers(2), Room(1)
    room.slots = ConcurrencyLimiter(1, newcomers.begin)
    room.slots.try_take()
    for _ in range(5):
        room.take(alone=False, crowd=crowd)
    await turns()
    found = []
    for _ in begun:
        room.slots.give()
        await turns()
        found.append(newcomers.begun)
    assert (found, room.slots.used) == (begun, 1)
    assert len(room.entered) == len(begun) - begun[-1]


async def test_no_newcomer_passes_a_suspect():
    newcomers, room = Newcomers(1), Room(2)
    room.slots = ConcurrencyLimiter(2, newcomers.begin)
    room.slots.try_take()
    room.slots.try_take()
    room.take(alone=True, crowd=True)
    await turns()
    room.slots.give()
    room.slots.give()
    await turns()
    assert (newcomers.begun, room.inside) == (0, [0])


@pytest.mark.parametrize("count", [1, 3])
async def test_as_many_run_as_there_are_slots_and_no_more(count):
    slots = ConcurrencyLimiter(count)
    assert [slots.try_take() for _ in range(count + 1)] == [True] * count + [False]
    slots.give()
    assert slots.try_take()


async def test_nobody_passes_those_who_wait():
    room = Room(2)
    room.try_take()
    room.take(alone=True)
    await turns()
    assert not room.slots.try_take()


async def test_a_suspect_waits_until_nobody_runs_and_nobody_comes_beside_it():
    room = Room(3)
    room.try_take()
    room.take(alone=True)
    await turns()
    assert room.inside == []
    room.give(0)
    await turns()
    assert room.inside == [0]
    assert not room.slots.try_take()
    room.take(alone=False)
    room.take(alone=False)
    await turns()
    assert room.inside == [0]
    room.give(0)
    await turns()
    assert room.inside == [1, 2]


async def test_a_suspect_that_gives_up_waiting_lets_those_behind_it_in():
    room = Room(2)
    room.try_take()
    room.take(alone=True)
    room.take(alone=False)
    await turns()
    room.cancel(0)
    await turns()
    assert room.inside == [1]


async def test_a_slot_that_is_granted_to_one_who_just_gave_up_goes_to_the_next():
    room = Room(1)
    room.try_take()
    room.take(alone=False)
    room.take(alone=False)
    await turns()
    room.give(0)
    room.cancel(0)
    await turns()
    assert (room.inside, room.slots.used) == ([1], 1)
