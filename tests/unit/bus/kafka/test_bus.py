"""The Kafka bus before anything is connected."""

from app.bus.kafka.bus import KafkaBus
from app.config.settings import load_settings


async def test_one_that_is_not_started_says_so_and_can_be_closed():
    bus = KafkaBus(load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1"}).bus)
    assert bus.healthy() == "the bus is not started"
    await bus.close()
