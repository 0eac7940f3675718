"""A crowd's backlog that came from another worker, and one request of somebody else beside it."""

import asyncio

import pytest

from app.protocol.lanes import split_into_lanes
from tests.unit.agent.scripted_engine import Hold, ScriptedAnswer, ScriptedEngine, stream
from tests.unit.scene import MODEL, turns, until

(QUIET,), (CROWD,) = split_into_lanes((0, 1))  # the partitions of the scene
MANY = 300  # more than are looked up at once
ANSWER = stream({"model": MODEL, "messages": [], "max_tokens": 1})


class Slow(ScriptedEngine):
    """Each answer is held back until it is released; `began`: the ids, in order."""

    def __init__(self) -> None:
        super().__init__(*(ScriptedAnswer([Hold(), *ANSWER]) for _ in range(MANY)))

    @property
    def began(self) -> list[str]:
        return [job.id for job in self.jobs]

    async def release(self) -> None:
        """Ends the request that runs; returns when the next has begun."""
        count = len(self.jobs)
        hold = self.given[-1].pieces[0]
        assert isinstance(hold, Hold)
        hold.released.set()
        await until(lambda: len(self.jobs) > count)


async def behind_a_backlog(shop):
    """An engine with one slot, whose worker has found so many requests in the crowd's partition,
    one of which runs.
    """
    for _ in range(MANY):
        await shop.ask(partition=CROWD)
    engine = Slow()
    await shop.worker(engine, concurrency=1)
    await until(lambda: engine.jobs)
    await turns()
    return engine


async def test_a_new_request_of_the_quiet_half_is_next(shop):
    engine = await behind_a_backlog(shop)
    asked = await shop.ask(partition=QUIET)
    await turns()
    await engine.release()
    assert engine.began[1:] == [asked.id]


async def test_those_of_the_crowd_that_wait_are_not_passed_twice_in_a_row(shop):
    engine = await behind_a_backlog(shop)
    asked = [await shop.ask(partition=QUIET) for _ in range(3)]
    await turns()
    for _ in range(6):
        await engine.release()
    ids = [one.id for one in asked]
    assert [id_ in ids for id_ in engine.began] == [False, True, False, True, False, True, False]


@pytest.mark.parametrize("crowded_first", [True, False])
async def test_a_request_of_the_quiet_half_that_came_with_the_backlog_is_among_the_first(
    shop, crowded_first
):
    asked = None if crowded_first else await shop.ask(partition=QUIET)
    for _ in range(MANY):
        await shop.ask(partition=CROWD)
    asked = asked or await shop.ask(partition=QUIET)
    engine = Slow()
    await shop.worker(engine, concurrency=1)
    await until(lambda: engine.jobs)
    await asyncio.sleep(1)
    for _ in range(2):
        await engine.release()
    assert asked.id in engine.began
