"""What others may write to a topic of ours, as Kafka lets them."""

import pytest

from app.bus.base import Record
from app.protocol import dead_letters
from app.protocol.reply_batch import record_ids

pytestmark = pytest.mark.servers


@pytest.fixture
def bus_factory(kafka_factory):
    return kafka_factory


async def test_headers_without_a_value_are_empty_for_every_reader(
    bus, new_topic, join, read_all, until
):
    topic = await new_topic(bus)
    await bus.send(
        topic, b"x", key=b"k", headers=[("id", None), ("parts", None), ("dlq-reason", None)]
    )
    member = await join(bus, topic, f"{topic}.g")
    await until(lambda: len(member.records) == 1)
    for record in [*member.records, *await read_all(bus, topic)]:
        assert isinstance(record, Record)
        assert record.headers == [("id", b""), ("parts", b""), ("dlq-reason", b"")]
        assert list(record_ids(record.headers)) == [b""]
        assert dead_letters.split_marks(record.headers) == ({"dlq-reason": ""}, record.headers[:2])
