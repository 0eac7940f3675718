"""Places of running requests: kept as long as their gateway lives, and soon free when it does
not.
"""

import asyncio
import time
from collections.abc import Collection, Mapping

import pytest

from app.errors import StoreUnavailable
from app.gateway.access.concurrency_leases import LEASE_SECONDS, ConcurrencyLeases
from app.stores.memory import MemoryStore


class SharedStore(MemoryStore):
    """Notes what is renewed, and is away for that while a test says so."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: time.monotonic())
        self.renewals: list[dict[str, int]] = []  # each: how many by key
        self.away = False

    async def renew_leases(
        self, holders: Mapping[str, Collection[str]], ttl_seconds: float
    ) -> None:
        self.renewals.append({key: len(of_key) for key, of_key in holders.items()})
        if self.away:
            raise StoreUnavailable("Redis: away")
        await super().renew_leases(holders, ttl_seconds)


class Site:
    """Two gateways that share a store."""

    def __init__(self) -> None:
        self.store = SharedStore()
        self.failures: list[StoreUnavailable] = []
        self.here, self.there = (
            ConcurrencyLeases(self.store, self.failures.append) for _ in range(2)
        )


@pytest.fixture
async def site() -> Site:
    return Site()


async def test_a_request_that_runs_for_long_keeps_its_place_and_gives_it_back(site):
    holder = await site.here.acquire_lease("a", 1)
    for _ in range(50):
        await asyncio.sleep(LEASE_SECONDS / 4)
        assert not await site.there.acquire_lease("a", 1)
    await site.here.release_lease(holder)
    assert await site.there.acquire_lease("a", 1)


async def test_a_killed_gateways_places_are_free_soon_and_not_at_once(site):
    for _ in range(2):
        await site.here.acquire_lease("a", 2)
    await asyncio.sleep(4.5 * LEASE_SECONDS)
    site.here.close()
    assert not await site.there.acquire_lease("a", 2)
    await asyncio.sleep(LEASE_SECONDS)
    assert [bool(await site.there.acquire_lease("a", 2)) for _ in range(3)] == [True, True, False]


async def test_requests_that_end_within_seconds_are_never_renewed(site):
    for _ in range(100):
        holder = await site.here.acquire_lease("a", 1)
        await asyncio.sleep(LEASE_SECONDS / 4)
        await site.here.release_lease(holder)
    assert site.store.renewals == []


async def test_all_that_run_for_long_are_renewed_together_and_only_while_they_run(site):
    holders = [await site.here.acquire_lease(key, 2) for key in ("a", "a", "b")]
    await asyncio.sleep(LEASE_SECONDS + 1)
    assert site.store.renewals == [{"a": 2, "b": 1}] * 2
    for holder in holders:
        await site.here.release_lease(holder)
    await asyncio.sleep(10 * LEASE_SECONDS)
    assert len(site.store.renewals) == 2


async def test_a_store_that_is_away_for_long_is_said_and_the_place_is_had_again(site):
    await site.here.acquire_lease("a", 1)
    site.store.away = True
    await asyncio.sleep(LEASE_SECONDS + 5)
    assert [str(error) for error in site.failures] == ["Redis: away"] * len(site.store.renewals)
    other = await site.there.acquire_lease("a", 1)
    site.store.away = False
    await asyncio.sleep(LEASE_SECONDS / 2)
    await site.there.release_lease(other)
    assert not await site.there.acquire_lease("a", 1)
