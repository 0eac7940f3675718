"""A process's heartbeats go on, whatever goes wrong with one of them."""

import asyncio

from app.cluster.heartbeat_sender import HeartbeatSender
from app.protocol.heartbeats import WorkerHeartbeat
from tests.unit.agent.workshop import GROUP
from tests.unit.scene import MODEL, REQUESTS, TOPICS, started_bus


async def test_a_fault_of_ours_is_logged_and_the_next_heartbeat_is_sent(caplog):
    bus, faults = await started_bus(), [ValueError("nobody has thought of this")] * 2

    def describe() -> WorkerHeartbeat:
        if faults:
            raise faults.pop()
        return WorkerHeartbeat("w", MODEL, REQUESTS, GROUP, TOPICS.replies, 0.0, 1.0)

    beats = HeartbeatSender(bus, TOPICS.workers, 1.0, describe)
    beats.start()
    await asyncio.sleep(4.5)
    assert (await bus.ends(TOPICS.workers))[0] == 3
    assert caplog.text.count("nobody has thought of this") >= 2
    await beats.close()
