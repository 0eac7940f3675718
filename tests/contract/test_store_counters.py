"""The contract of a store's counters, in the process and in Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from app.errors import StoreUnavailable
from app.stores.base import Store
from app.stores.memory import MemoryStore
from app.stores.redis import RedisStore
from tests.acceptance.processes import until
from tests.redis_server import running_redis

pytestmark = pytest.mark.usefixtures("patient_redis")

LONG = 600  # seconds


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    name = f"test-{request.node.name}"
    made = (
        RedisStore(request.getfixturevalue("redis_url"), name)
        if request.param == "redis"
        else MemoryStore()
    )
    yield made
    await made.close()


async def test_a_counter_begins_at_0_and_each_has_its_own(store):
    assert [await store.add_to_counter("a", amount, LONG) for amount in (1, 2, 40)] == [1, 3, 43]
    assert await store.add_to_counter("b", 5, LONG) == 5


async def test_what_is_taken_away_may_be_more_than_there_is(store):
    assert [await store.add_to_counter("a", amount, LONG) for amount in (10, -4, -9, 5)] == [
        10,
        6,
        -3,
        2,
    ]


async def test_a_crowd_loses_nothing(store):
    found = await asyncio.gather(*(store.add_to_counter("a", 1, LONG) for _ in range(100)))
    assert sorted(found) == list(range(1, 101))


async def test_a_counter_begins_anew_after_its_time(store):
    await store.add_to_counter("a", 7, 1)

    async def begins_anew() -> bool:
        return await store.add_to_counter("a", 1, 1) == 1

    await until(begins_anew, "the counter to begin anew")


async def test_in_the_process_no_counter_is_kept_that_is_past_its_time():
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    for minute in range(1000):
        now = minute * 60.0
        for tenant in "abc":
            await store.add_to_counter(f"{tenant}:{minute}", 1, 120)
    assert len(store._counters) == 6


@pytest.mark.servers
async def test_gateways_of_one_deployment_count_together_and_others_apart(redis_url):
    one, same, other = (RedisStore(redis_url, prefix) for prefix in ("here", "here", "there"))
    await one.add_to_counter("a", 1, LONG)
    assert (await same.add_to_counter("a", 1, LONG), await other.add_to_counter("a", 1, LONG)) == (
        2,
        1,
    )
    for made in (one, same, other):
        await made.close()


async def test_a_redis_that_is_not_there_is_said_in_our_words(refusing_port):
    store = RedisStore(f"redis://127.0.0.1:{refusing_port}/0", "test")
    with pytest.raises(StoreUnavailable, match="Redis: "):
        await store.add_to_counter("a", 1, LONG)
    await store.close()


@pytest.mark.servers
async def test_a_redis_that_went_and_came_back_is_used_again():
    with running_redis() as url:
        store = RedisStore(url, "test")
        await store.add_to_counter("a", 1, LONG)
    with pytest.raises(StoreUnavailable):
        await store.add_to_counter("a", 1, LONG)
    with running_redis(port=int(url.rpartition(":")[2].partition("/")[0])):
        assert await store.add_to_counter("a", 1, LONG) == 1
    await store.close()
