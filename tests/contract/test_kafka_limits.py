"""What a small MAX_BODY_BYTES leaves room for on Kafka."""

import os

import pytest

from app.protocol.records import MAX_REPLY_RECORD_BYTES
from tests.contract.sending import in_order

pytestmark = pytest.mark.servers

MAX_BODY = 100_000


@pytest.fixture
def ours():
    from app.config.settings import load_settings

    servers = os.environ.get("BOOTSTRAP_SERVERS") or "127.0.0.1:9093"
    return load_settings({"BOOTSTRAP_SERVERS": servers, "MAX_BODY_BYTES": str(MAX_BODY)}).bus


@pytest.fixture
async def bus(ours):
    from app.bus.kafka.bus import KafkaBus

    bus = KafkaBus(ours)
    await bus.start()
    yield bus
    await bus.close()


@pytest.fixture
def bus_factory(kafka_factory):
    return kafka_factory


async def send(bus, topic, count, size):
    return await in_order(
        bus.send(topic, bytes(size), key=b"k", headers=[("v", b"1")], partition=0)
        for _ in range(count)
    )


async def test_a_replys_largest_records_are_taken(bus, ours, new_topic):
    from app.bus.topic_configs import largest_record

    topic = await new_topic(bus, config={"max.message.bytes": str(largest_record(ours))})
    places = await send(bus, topic, 8, MAX_REPLY_RECORD_BYTES)
    assert [place.offset for place in places] == list(range(8))


async def test_many_requests_at_once_fit_their_topic(bus, ours, new_topic):
    from app.bus.topic_configs import largest_request

    topic = await new_topic(bus, config={"max.message.bytes": str(largest_request(ours))})
    places = await send(bus, topic, 50, MAX_BODY)
    assert [place.offset for place in places] == list(range(50))


async def test_what_is_larger_still_is_refused_at_once(bus, ours, new_topic):
    from app.bus.topic_configs import largest_record
    from app.errors import RecordTooLarge

    with pytest.raises(RecordTooLarge):
        await send(bus, await new_topic(bus), 1, largest_record(ours) + 1)
