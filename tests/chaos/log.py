"""The whole log of a chaos run's own broker, for the reckoning, and as text for whoever looks for a
fault.
"""

from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, Message, TopicPartition

from app.protocol.records import RequestRecord
from app.protocol.request_id import Address, fingerprint_topic

_SHOWN = 400  # bytes of a value
_SECONDS = 10.0


def logged(servers: str) -> dict[str, tuple[RequestRecord, list[str]]]:
    """Every request in the log by its internal id, with the public ids of its records."""
    found: dict[str, tuple[RequestRecord, list[str]]] = {}
    for message in _messages(servers, ".requests."):
        request = RequestRecord.decode(message.headers(), message.value())
        where = (fingerprint_topic(message.topic()), message.partition(), message.offset())
        address = Address(request.id, *where, request.reply_partition, request.reply_offset)
        found.setdefault(request.id, (request, []))[1].append(address.encode())
    return found


def write_down(servers: str, path: Path) -> None:
    """Each record as a line: time, topic, partition, offset, headers, the value's beginning."""
    lines = sorted(
        f"{message.timestamp()[1]} {message.topic()}[{message.partition()}]@{message.offset()} "
        f"{' '.join(f'{name}={value.decode()}' for name, value in message.headers() or ())} "
        f"{(message.value() or b'')[:_SHOWN]!r}"
        for message in _messages(servers, "")
    )
    path.write_text("\n".join(lines))


def _messages(servers: str, part: str) -> Iterator[Message]:
    """Everything in the topics with this in their names, whatever a group has committed."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    topics = {
        name: topic
        for name, topic in consumer.list_topics(timeout=_SECONDS).topics.items()
        if part in name
    }
    places = [
        TopicPartition(name, number, 0)
        for name, topic in topics.items()
        for number in topic.partitions
        if name[0] != "_"
    ]
    ends = {
        (place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=_SECONDS)[1]
        for place in places
    }
    consumer.assign(places)
    while any(ends.values()):
        for message in consumer.consume(500, 1.0):
            assert message.error() is None, message.error()
            if message.offset() + 1 >= ends[message.topic(), message.partition()]:
                ends[message.topic(), message.partition()] = 0
            yield message
    consumer.close()
