"""A worker that drains while no broker takes anything ends all the same, and hands back what it
can.
"""

import asyncio

from app.protocol.reply_state import CLAIM, COMPLETED
from tests.unit.agent.consume.test_scheduler import LIMITED, hold_of, reached, slow
from tests.unit.agent.consume.test_scheduler_beside_others import begins_a_claim
from tests.unit.agent.scripted_engine import ScriptedEngine
from tests.unit.scene import LOST, replies, text_of

GRACE = 30.0
LITTLE = 30.0  # seconds over the grace: much less than the broker is away


def goes_away(shop) -> None:
    """No reply record is taken for the next half hour and more."""
    shop.bus.script.extend([LOST] * 10_000)


async def drained(worker, seconds: float = GRACE) -> float:
    begun = asyncio.get_running_loop().time()
    await worker.drain(seconds)
    return asyncio.get_running_loop().time() - begun


async def test_it_does_not_wait_for_what_it_cannot_hand_back(shop, caplog):
    engine = ScriptedEngine(slow())
    worker = await shop.worker(engine)
    await shop.ask()
    await reached(engine)
    goes_away(shop)
    assert GRACE <= await drained(worker) < GRACE + LITTLE
    assert engine.given[0].closed
    assert "could not be handed back" in caplog.text


async def test_it_does_not_wait_for_a_claim_that_it_cannot_take_back(shop):
    _, worker = await begins_a_claim(shop, ScriptedEngine())
    goes_away(shop)
    assert await drained(worker) < GRACE + LITTLE


async def test_while_the_broker_is_away_what_runs_has_its_whole_grace_and_no_more(shop):
    _, worker = await begins_a_claim(shop, engine := ScriptedEngine(slow()))
    shop.bus.release()
    await reached(engine)
    goes_away(shop)
    hold_of(engine.given[0]).released.set()
    assert GRACE <= await drained(worker) < GRACE + LITTLE


async def test_without_a_grace_there_is_time_to_hand_back_to_a_broker_that_is_back_soon(shop):
    engine = ScriptedEngine(slow())
    worker = await shop.worker(engine)
    asked = await shop.ask(body=LIMITED)
    await reached(engine)
    shop.bus.script.extend([LOST] * 5)
    await drained(worker, 0)
    assert [reply.supersedes for reply in await replies(shop.bus) if reply.kind == CLAIM] == [
        worker.owner
    ]
    await shop.worker(ScriptedEngine())
    seen = await shop.ended(asked, seconds=5)
    assert (seen.state.outcome, seen.deaths) == (COMPLETED, 0)
    assert text_of(seen.text)
