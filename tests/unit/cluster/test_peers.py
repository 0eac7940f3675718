"""What a worker remembers of the others: the living, workers that died lately, and nobody for
ever.
"""

import asyncio
import time
from types import SimpleNamespace

import pytest

from app.bus.memory import partition_log as memory_log
from app.cluster.peers import Peers
from app.protocol.heartbeats import GatewayHeartbeat, WorkerHeartbeat, encode_message
from tests.unit.agent.workshop import GROUP
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, started_bus, turns
from tests.unit.virtual_time import stand_still


async def beats(bus: ScriptedBus, beat: GatewayHeartbeat | WorkerHeartbeat) -> None:
    await bus.send(TOPICS.workers, encode_message(beat), key=b"k", headers=[("v", b"1")])
    await turns()


async def test_gateways_that_came_and_went_are_forgotten():
    bus = await started_bus()
    peers = Peers(bus, TOPICS.workers, 1.0, "own")
    await peers.start()
    for number in range(50):
        await beats(bus, GatewayHeartbeat(f"g{number}", f"topic-{number}", 0, time.time(), 1.0))
        await beats(
            bus,
            WorkerHeartbeat(f"w{number}", MODEL, REQUESTS, GROUP, TOPICS.replies, time.time(), 1.0),
        )
        await asyncio.sleep(60)
    await beats(bus, GatewayHeartbeat("last", "here", 0, time.time(), 1.0))
    assert (set(peers._gateways), peers.reply_topics()) == ({"last"}, {"here"})
    assert len(peers._peers) == 10, "workers that died are remembered for ten minutes"
    await peers.close()


async def peers_of(bus: ScriptedBus) -> Peers:
    peers = Peers(bus, TOPICS.workers, 1.0, "own")
    await peers.start()
    return peers


@pytest.mark.parametrize("behind", [-4.0, 4.0])
async def test_a_peer_whose_clock_is_off_lives_until_it_falls_silent(behind, monkeypatch):
    bus = await started_bus()
    peers = await peers_of(bus)
    theirs = SimpleNamespace(time=lambda: time.time() - behind)
    monkeypatch.setattr(memory_log, "time", theirs)
    beat = WorkerHeartbeat(
        "w", MODEL, REQUESTS, GROUP, TOPICS.replies, theirs.time(), 1.0, running=("id",)
    )
    for _ in range(3):
        await beats(bus, beat)
        await asyncio.sleep(2.9)
        assert (peers.runs("id"), peers.died_with("id")) == (True, False)
    await asyncio.sleep(0.2)
    assert (peers.runs("id"), peers.died_with("id")) == (False, True)
    await peers.close()


async def test_one_that_fell_silent_before_this_worker_came_has_died():
    bus = await started_bus()
    await beats(
        bus,
        WorkerHeartbeat(
            "w", MODEL, REQUESTS, GROUP, TOPICS.replies, time.time(), 1.0, running=("id",)
        ),
    )
    await asyncio.sleep(10)
    peers = await peers_of(bus)
    assert (peers.runs("id"), peers.died_with("id")) == (False, True)
    await peers.close()


async def test_a_worker_that_stood_still_itself_hears_its_peers_before_it_takes_them_for_dead():
    bus = await started_bus()
    peers = await peers_of(bus)
    beat = WorkerHeartbeat(
        "w", MODEL, REQUESTS, GROUP, TOPICS.replies, time.time(), 1.0, running=("id",)
    )
    await beats(bus, beat)
    for _ in range(3):
        stand_still(20)
        assert (peers.runs("id"), peers.died_with("id")) == (True, False)
        await asyncio.sleep(1.5)
        assert (peers.runs("id"), peers.died_with("id")) == (True, False)
        await beats(bus, beat)
    stand_still(20)
    await asyncio.sleep(2.1)
    assert (peers.runs("id"), peers.died_with("id")) == (False, True)
    await peers.close()
