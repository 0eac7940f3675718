"""A Kafka consumer that hears nothing any more is replaced, and its reader goes on where it was."""

import pytest

from tests.contract.sending import in_order

pytestmark = pytest.mark.servers


@pytest.fixture
def cut_off(monkeypatch):
    """Makes the first consumer of each reader one that no broker answers, as soon as `begin()` is
    called.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException

    from app.bus.kafka import consumer_thread as kafka_thread
    from app.bus.kafka import group as kafka_group
    from app.bus.kafka import reader as kafka_reader

    made, begun = [], []

    class Deaf(Consumer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def list_topics(self, *arguments, **options):
            if begun and self is made[0]:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT))
            return super().list_topics(*arguments, **options)

    monkeypatch.setattr(kafka_group, "Consumer", Deaf)
    monkeypatch.setattr(kafka_reader, "Consumer", Deaf)
    monkeypatch.setattr(kafka_thread, "_PROBE_SECONDS", 0.1)
    return made, lambda: begun.append(True)


@pytest.fixture
def bus_factory(cut_off, kafka_factory):
    return kafka_factory


async def send(bus, topic, values):
    await in_order(
        bus.send(topic, b"%d" % value, key=b"k", headers=[], partition=0) for value in values
    )


async def test_a_log_reader_misses_and_doubles_nothing(bus, cut_off, new_topic, follow, until):
    made, begin = cut_off
    topic = await new_topic(bus)
    log = await follow(bus, topic)
    await send(bus, topic, range(100))
    await until(lambda: len(log.records) == 100)
    begin()
    await until(lambda: len(made) == 2)
    await send(bus, topic, range(100, 200))
    await until(lambda: len(log.records) >= 200)
    assert log.values() == [b"%d" % value for value in range(200)]


async def test_a_group_reader_is_told_what_it_lost_and_gets_it_again(
    bus, cut_off, new_topic, join, until
):
    made, begin = cut_off
    topic = await new_topic(bus, 2)
    member = await join(bus, topic, f"{topic}.g")
    await send(bus, topic, range(10))
    await until(lambda: len(member.owned) == 2 and len(member.records) == 10)
    begin()
    await until(lambda: sorted(member.revoked) == [0, 1] and len(member.owned) == 2)
    await send(bus, topic, range(10, 20))
    await until(lambda: b"19" in member.values())
    assert len(made) == 2
    assert list(dict.fromkeys(member.values())) == [b"%d" % value for value in range(20)]
