"""What a worker remembers of the others: the living, workers that died lately, and nobody for ever."""

import asyncio
import time

from app.agent.peers import Peers
from app.contracts.presence import GatewayBeat, WorkerBeat, encode
from tests.unit.agent.workshop import GROUP
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, started_bus, turns


async def beats(bus: ScriptedBus, beat: GatewayBeat | WorkerBeat) -> None:
    await bus.send(TOPICS.workers, encode(beat), key=b"k", headers=[("v", b"1")])
    await turns()


async def test_gateways_that_came_and_went_are_forgotten():
    bus = await started_bus()
    peers = Peers(bus, TOPICS.workers, 1.0, "own")
    await peers.start()
    for number in range(50):
        await beats(bus, GatewayBeat(f"g{number}", f"topic-{number}", 0, time.time(), 1.0))
        await beats(bus, WorkerBeat(f"w{number}", MODEL, REQUESTS, GROUP, TOPICS.replies, time.time(), 1.0))
        await asyncio.sleep(60)
    await beats(bus, GatewayBeat("last", "here", 0, time.time(), 1.0))
    assert (set(peers._gateways), peers.reply_topics()) == ({"last"}, {"here"})
    assert len(peers._peers) == 10, "workers that died are remembered for ten minutes"
    await peers.close()
