"""A process whose broker stands still while a commit is under way ends all the same, and soon."""

import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Process, until
from tests.acceptance.stack import ROOT
from tests.chaos.broker import Broker

pytestmark = [pytest.mark.servers, pytest.mark.brokers]

# A member of a group, which commits its record when the broker stands still, and leaves when that
# is under way.
MEMBER = """
import asyncio, logging, os, sys
from app.bus.base import TopicSpec
from app.bus.kafka.bus import KafkaBus
from app.config.settings import load_settings

class Member:
    def on_assigned(self, assigned):
        pass
    def on_revoked(self, partitions):
        pass
    def on_records(self, records):
        print("read", flush=True)

async def main():
    bus = KafkaBus(load_settings(os.environ).bus)
    await bus.start()
    await bus.ensure_topics([TopicSpec("t", 1)])
    reader = await bus.group_reader("t", "g", Member(), buffer=1)
    await bus.send("t", b"x", key=b"k", headers=[], partition=0)
    while not os.path.exists("stands-still"):
        await asyncio.sleep(0.02)
    reader.commit(0, 1)
    await asyncio.sleep(0.5)
    await reader.close()
    await bus.close()
    print("left", flush=True)

logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
"""


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory))
        await broker.start()
        yield broker
        broker.clear_away()
        await broker.ended()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
async def test_it_ends_though_no_broker_hears_that_it_leaves(
    broker: Broker, protocol: str, tmp_path: Path
) -> None:
    environment = {
        "BOOTSTRAP_SERVERS": broker.servers,
        "KAFKA_GROUP_PROTOCOL": protocol,
        "PYTHONPATH": str(ROOT),
    }
    member = Process("member", [sys.executable, "-c", MEMBER], environment, tmp_path)
    try:
        await until(lambda: "read" in member.log, "its record")
        broker.stop()
        (tmp_path / "stands-still").touch()
        assert await member.ended() == 0, member.tail
    finally:
        member.clear_away()
    assert member.log.count("no broker hears its goodbye") == 1
    assert member.log.splitlines()[-1] == "left"
