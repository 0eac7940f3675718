"""Leases: however many processes take in advance, together they use no more than the limit, and
little less.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import StoreUnavailable
from app.stores.counter_leases import CounterLeases
from app.stores.memory import MemoryStore


class Redis(MemoryStore):
    """Knows how often it was asked; may be away."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 0.0)
        self.asked = 0
        self.away = False

    async def add_to_counter(self, key: str, amount: int, ttl_seconds: float) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return await super().add_to_counter(key, amount, ttl_seconds)


def test_below_a_hundred_every_one_is_asked_for_and_the_count_is_exact() -> None:
    async def run() -> None:
        redis = Redis()
        processes = [CounterLeases(redis), CounterLeases(redis)]
        told = [await processes[turn % 2].try_consume("t", 1, 1, 99) for turn in range(120)]
        assert told == [(True, used) for used in range(1, 100)] + [(False, 99)] * 21
        assert await CounterLeases(redis).try_consume("t", 1, 0, 99) == (True, 99), (
            "one that only looks"
        )

    asyncio.run(run())


def test_of_a_busy_key_some_hundred_questions_are_asked() -> None:
    async def run() -> None:
        redis = Redis()
        leases = CounterLeases(redis)
        for number in range(100_000):
            assert await leases.try_consume("t", 1, 1, 100_000) == (True, number + 1)
        assert redis.asked == 100
        assert (await leases.try_consume("t", 1, 1, 100_000))[0] is False
        assert await leases.try_consume("t", 2, 1, 100_000) == (True, 1), "a minute of its own"

    asyncio.run(run())


def test_what_others_give_back_is_there_again_for_one_that_was_refused() -> None:
    async def run() -> None:
        redis = Redis()
        one, other = CounterLeases(redis), CounterLeases(redis)
        assert await one.try_consume("t", 1, 50, 50) == (True, 50)
        assert await other.try_consume("t", 1, 1, 50) == (False, 50)
        await one.adjust_consumption("t", 1, -30, 50)
        assert await other.try_consume("t", 1, 30, 50) == (True, 50)

    asyncio.run(run())


def test_what_was_not_used_is_no_hoard() -> None:
    async def run() -> None:
        redis = Redis()
        one, other = CounterLeases(redis), CounterLeases(redis)
        for _ in range(20):
            await one.try_consume("t", 1, 4000, 100_000)
            await one.adjust_consumption("t", 1, -3900, 100_000)
        taken, used = await other.try_consume("t", 1, 90_000, 100_000)
        assert (taken, used <= 95_000) == (True, True)

    asyncio.run(run())


def test_while_the_counters_are_away_what_is_held_is_served() -> None:
    async def run() -> None:
        redis = Redis()
        leases = CounterLeases(redis)
        await leases.try_consume("t", 1, 1, 1000)
        redis.away = True
        assert [await leases.try_consume("t", 1, 1, 1000) for _ in range(10)] == [
            (True, used) for used in range(2, 12)
        ]
        with pytest.raises(StoreUnavailable):
            await leases.try_consume("t", 1, 1, 1000)

    asyncio.run(run())


STEP = st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(-60, 0))


@given(
    st.sampled_from([10, 99, 100, 500, 2000]),
    st.lists(st.lists(STEP, min_size=1, max_size=4), max_size=60),
)
def test_no_more_is_used_than_the_limit_and_none_is_refused_while_more_is_left_than_the_others_hold(
    limit: int, rounds: list[list[tuple[int, int, int]]]
) -> None:
    """Each round's steps at once: one of three processes takes an amount (0: only looks), and gives
    some of it back.
    """
    redis = Redis()
    processes = [CounterLeases(redis) for _ in range(3)]
    used = 0

    async def step(which: int, amount: int, less: int) -> tuple[bool, int]:
        nonlocal used
        taken, told = await processes[which].try_consume("t", 1, amount, limit)
        if taken:
            used += amount
            used += (given_back := max(less, -amount))
            await processes[which].adjust_consumption("t", 1, given_back, limit)
        return taken, told

    async def run() -> None:
        for steps in rounds:
            before = used
            asked: list[Coroutine[Any, Any, tuple[bool, int]]] = [step(*each) for each in steps]
            found = await asyncio.gather(*asked)
            assert used <= limit
            held = 2 * 3 * (limit // 100)
            for (_, amount, _), (taken, _) in zip(steps, found, strict=True):
                at_most = (
                    before + sum(each[1] for each in steps) + held + 3 * len(steps) * (limit // 100)
                )
                assert taken or not amount or at_most > limit, amount

    asyncio.run(run())
