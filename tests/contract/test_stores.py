"""The contract of a store, over every one there is: small values that expire, put once or swapped,
by whoever is first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from app.errors import StoreUnavailable
from app.stores.base import Store
from app.stores.memory import MemoryStore
from app.stores.redis import RedisStore
from tests.redis_server import running_redis

pytestmark = pytest.mark.usefixtures("patient_redis")
LONG, SHORT = 600.0, 0.2  # seconds


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Sleep = Callable[[float], Awaitable[None]]


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Their answers. One after the other they go to the store at once: what one puts for a moment
    is there for the next.
    """
    return await asyncio.gather(*calls)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Sleep]]:
    """A store that is empty, and how time passes for it."""
    if request.param == "memory":
        clock = Clock()

        async def skip(seconds: float) -> None:
            clock.now += seconds

        yield MemoryStore(clock=clock), skip
        return
    store = RedisStore(request.getfixturevalue("redis_url"), f"test-{request.node.name}")
    yield store, asyncio.sleep
    await store.close()


@pytest.fixture
def store(backend: tuple[Store, Sleep]) -> Store:
    return backend[0]


@pytest.fixture
def sleep(backend: tuple[Store, Sleep]) -> Sleep:
    return backend[1]


async def test_what_nobody_put_is_not_there(store):
    assert await store.get("a") is None


@pytest.mark.parametrize("value", [b"", b"x", b"\x00\xff\r\n", bytes(100_000)])
async def test_what_was_put_is_there_byte_for_byte(store, value):
    assert await store.put_if_absent("a", value, LONG) is None
    assert await store.get("a") == value
    assert await store.get("b") is None


async def test_whoever_is_second_gets_what_was_there_first(store):
    await store.put_if_absent("a", b"first", LONG)
    assert await store.put_if_absent("a", b"second", LONG) == b"first"
    assert await store.get("a") == b"first"


async def test_of_a_crowd_one_is_first_and_the_others_all_hear_of_it(store):
    found = await asyncio.gather(
        *(store.put_if_absent("a", b"%d" % number, LONG) for number in range(50))
    )
    assert found.count(None) == 1
    winner = b"%d" % found.index(None)
    assert set(found) == {None, winner}
    assert await store.get("a") == winner


async def test_a_swap_puts_the_new_in_the_place_of_the_old(store):
    await store.put_if_absent("a", b"old", LONG)
    assert await store.compare_and_swap("a", b"old", b"new", LONG)
    assert await store.get("a") == b"new"


async def test_a_swap_of_what_is_not_there_any_more_changes_nothing(store):
    assert not await store.compare_and_swap("a", b"", b"new", LONG)
    assert not await store.compare_and_swap("a", b"old", b"new", LONG)
    assert await store.get("a") is None
    await store.put_if_absent("a", b"another", LONG)
    assert not await store.compare_and_swap("a", b"old", b"new", LONG)
    assert await store.get("a") == b"another"


async def test_of_a_crowd_that_swaps_the_same_one_does(store):
    await store.put_if_absent("a", b"old", LONG)
    done = await asyncio.gather(
        *(store.compare_and_swap("a", b"old", b"%d" % number, LONG) for number in range(50))
    )
    assert done.count(True) == 1
    assert await store.get("a") == b"%d" % done.index(True)


async def test_counting_by_swaps_loses_nothing(store):
    await store.put_if_absent("a", b"0", LONG)

    async def add() -> None:
        while True:
            old = await store.get("a") or b""
            if await store.compare_and_swap("a", old, b"%d" % (int(old) + 1), LONG):
                return

    await asyncio.gather(*(add() for _ in range(20)))
    assert await store.get("a") == b"20"


async def test_a_value_is_forgotten_after_its_time_and_its_key_is_free(store, sleep):
    await store.put_if_absent("a", b"first", SHORT)
    await store.put_if_absent("b", b"stays", LONG)
    await sleep(SHORT + 0.1)
    assert await store.get("a") is None
    assert not await store.compare_and_swap("a", b"first", b"new", LONG)
    assert await store.put_if_absent("a", b"second", LONG) is None
    assert (await store.get("a"), await store.get("b")) == (b"second", b"stays")


async def test_a_swap_gives_its_own_time_to_live(store, sleep):
    assert await together(
        store.put_if_absent("a", b"old", SHORT),
        store.compare_and_swap("a", b"old", b"longer", LONG),
    ) == [None, True]
    await store.put_if_absent("b", b"old", LONG)
    assert await store.compare_and_swap("b", b"old", b"shorter", SHORT)
    await sleep(SHORT + 0.1)
    assert (await store.get("a"), await store.get("b")) == (b"longer", None)


async def test_a_swap_that_gives_none_leaves_the_time_as_it_was(store, sleep):
    for name, ttl in (("a", SHORT), ("b", LONG)):
        put, swap = (
            store.put_if_absent(name, b"old", ttl),
            store.compare_and_swap(name, b"old", b"new", None),
        )
        assert await together(put, swap, store.get(name)) == [None, True, b"new"]
    await sleep(SHORT + 0.1)
    assert (await store.get("a"), await store.get("b")) == (None, b"new")


async def test_a_second_put_does_not_lengthen_the_firsts_time(store, sleep):
    first, second = (
        store.put_if_absent("a", b"first", SHORT),
        store.put_if_absent("a", b"second", LONG),
    )
    assert await together(first, second) == [None, b"first"]
    await sleep(SHORT + 0.1)
    assert await store.get("a") is None


async def test_with_no_time_left_the_key_is_free(store, sleep):
    await store.put_if_absent("a", b"first", LONG)
    assert await store.compare_and_swap("a", b"first", b"first", 0)
    await sleep(0.05)
    assert await store.put_if_absent("a", b"second", LONG) is None


async def test_so_many_hold_a_place_and_no_more(store):
    assert [await store.acquire_lease("a", holder, 2, LONG) for holder in ("x", "y", "z")] == [
        True,
        True,
        False,
    ]
    assert await store.acquire_lease("b", "z", 1, LONG)
    await store.release_lease("a", "x")
    assert await store.acquire_lease("a", "z", 2, LONG)
    assert not await store.acquire_lease("a", "x", 2, LONG)


async def test_one_that_asks_again_for_its_place_has_it_once(store):
    assert [
        await store.acquire_lease("a", holder, 2, LONG) for holder in ("x", "x", "y", "x", "z")
    ] == [
        True,
        True,
        True,
        True,
        False,
    ]
    await store.release_lease("a", "x")
    assert await store.acquire_lease("a", "z", 2, LONG)
    assert not await store.acquire_lease("a", "x", 2, LONG)


async def test_of_a_crowd_as_many_as_may_hold_a_place(store):
    taken = await asyncio.gather(
        *(store.acquire_lease("a", str(number), 3, LONG) for number in range(50))
    )
    assert taken.count(True) == 3


async def test_one_that_holds_no_place_lets_nobody_elses_go(store):
    await store.acquire_lease("a", "x", 1, LONG)
    await store.release_lease("a", "y")
    await store.release_lease("b", "x")
    assert not await store.acquire_lease("a", "z", 1, LONG)


async def test_a_place_is_free_after_its_time_and_the_others_are_not(store, sleep):
    await store.acquire_lease("a", "long", 2, LONG)
    assert await together(
        store.acquire_lease("a", "short", 2, SHORT), store.acquire_lease("a", "x", 2, LONG)
    ) == [
        True,
        False,
    ]
    await sleep(SHORT + 0.1)
    assert await store.acquire_lease("a", "x", 2, LONG)
    assert not await store.acquire_lease("a", "y", 2, LONG)


async def test_a_place_that_is_renewed_lasts_for_so_long_from_then(store, sleep):
    for key in ("a", "b"):
        for holder in ("x", "y"):
            await store.acquire_lease(key, holder, 2, SHORT)
    await store.renew_leases({"a": ["x", "y"], "b": ["x"]}, LONG)
    await sleep(SHORT + 0.1)
    assert not await store.acquire_lease("a", "z", 2, LONG)
    assert await store.acquire_lease("b", "z", 2, LONG)
    assert not await store.acquire_lease("b", "y", 2, LONG)


async def test_who_has_lost_a_place_and_renews_it_has_one_though_others_have_them_all(store, sleep):
    await store.acquire_lease("a", "x", 1, SHORT)
    await sleep(SHORT + 0.1)
    assert await store.acquire_lease("a", "y", 1, LONG)
    await store.renew_leases({"a": ["x"]}, LONG)
    await store.release_lease("a", "y")
    assert not await store.acquire_lease("a", "z", 1, LONG)
    await store.release_lease("a", "x")
    assert await store.acquire_lease("a", "z", 1, LONG)


async def test_a_place_that_is_let_go_while_it_is_renewed_is_free(store):
    await store.acquire_lease("a", "x", 1, LONG)
    await asyncio.gather(
        store.renew_leases({"a": ["x"], "b": ["x"]}, LONG),
        store.release_lease("a", "x"),
        store.release_lease("b", "x"),
    )
    for key in ("a", "b"):
        assert await store.acquire_lease(key, "y", 1, LONG)


async def test_the_memory_store_forgets_its_oldest_beyond_its_limit():
    store = MemoryStore(max_keys=3)
    for number in range(3):
        await store.put_if_absent(str(number), b"x", LONG)
    await store.compare_and_swap("0", b"x", b"y", LONG)
    await store.put_if_absent("3", b"x", LONG)
    assert [number for number in range(4) if await store.get(str(number))] == [0, 2, 3]


@pytest.mark.servers
async def test_of_many_that_ask_redis_at_once_each_has_its_own_answer(redis_url):
    store = RedisStore(redis_url, "many")
    await store.put_if_absent("a", b"1", LONG)
    gone = asyncio.create_task(store.put_if_absent("gone", b"1", LONG))
    asked = [
        store.get("a"),
        store.acquire_lease("a", "x", 1, LONG),
        store.get("b"),
        store.put_if_absent("b", b"2", LONG),
        store.get("b"),
    ]
    answers = asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0)
    gone.cancel()
    one, wrong, none, new, two = await answers
    assert (one, type(wrong), none, new, two) == (b"1", StoreUnavailable, None, None, b"2")
    assert await store.get("a") == b"1"
    await store.close()


@pytest.mark.servers
async def test_deployments_that_share_a_redis_do_not_see_each_other_and_gateways_of_one_do(
    redis_url,
):
    one, same, other = (RedisStore(redis_url, prefix) for prefix in ("here", "here", "there"))
    await one.put_if_absent("a", b"here", LONG)
    assert (await same.get("a"), await other.get("a")) == (b"here", None)
    assert await other.put_if_absent("a", b"there", LONG) is None
    for store in (one, same, other):
        await store.close()


async def test_a_redis_that_is_not_there_is_said_in_our_words(refusing_port):
    store = RedisStore(f"redis://127.0.0.1:{refusing_port}/0", "test")
    values = (
        store.get("a"),
        store.put_if_absent("a", b"", LONG),
        store.compare_and_swap("a", b"", b"", LONG),
    )
    for call in (
        *values,
        store.acquire_lease("a", "x", 1, LONG),
        store.renew_leases({"a": ["x"], "b": ["x"]}, LONG),
        store.release_lease("a", "x"),
        store.add_to_counter("c", 1, LONG),
    ):
        with pytest.raises(StoreUnavailable, match="Redis"):
            await call
    await store.close()


@pytest.mark.servers
async def test_a_connection_that_redis_has_cut_is_made_anew():
    with running_redis() as url:
        store, other = RedisStore(url, "test"), Redis.from_url(url)
        for number in range(3):
            assert await store.acquire_lease("a", str(number), 3, LONG)
            assert await store.add_to_counter("b", 1, LONG) == number + 1
            await other.client_kill_filter(_type="normal", skipme=True)
        await store.close()
        await other.aclose()


@pytest.mark.servers
async def test_a_redis_that_went_and_came_back_is_used_again():
    with running_redis() as url:
        store = RedisStore(url, "test")
        await store.put_if_absent("a", b"x", LONG)
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    with running_redis(port=int(url.rpartition(":")[2].partition("/")[0])):
        assert await store.put_if_absent("a", b"y", LONG) is None
    await store.close()
