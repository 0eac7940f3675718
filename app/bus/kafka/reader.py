"""Reading from Kafka: the properties of every consumer, its records, and the reader of given
partitions.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from app.bus.base import At, From, OnRecords, Record, Since, Start
from app.bus.kafka.client import patiently, properties
from app.bus.kafka.consumer_thread import ReaderThread
from app.bus.topic_configs import ENVELOPE_BYTES
from app.config.bus_settings import BusSettings
from app.protocol.records import Headers

logger = logging.getLogger("app.bus.librdkafka")

_BATCH = 500
_PIECE_BYTES = 64 * 1024
# how long closing may wait for a poll to end: a look-up closes its reader before it answers
_POLL_SECONDS = 0.04
_CALL_SECONDS = 10.0


def consumer_properties(settings: BusSettings, **ours: Any) -> dict[str, Any]:
    largest = settings.max_body_bytes + ENVELOPE_BYTES
    return properties(
        settings,
        **{
            # librdkafka wants one even where no group is used
            "group.id": f"{settings.prefix}.readers",
            # its default would skip what was queued before a group's first commit
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "allow.auto.create.topics": False,
            "fetch.max.bytes": max(largest, 16 * 1024 * 1024),
            "receive.message.max.bytes": max(largest, 16 * 1024 * 1024) + 1024 * 1024,
            "queued.max.messages.kbytes": 32 * 1024,
            # A partition left out of a fetch waits until the next; with the default of a second
            # that is a visible stall.
            "fetch.queue.backoff.ms": 10,
            # A tenth of it while the coordinator is away; with the default of 10 minutes that took
            # a minute and more.
            "coordinator.query.interval.ms": 5000,
            **ours,
        },
    )


def to_record(message: Message) -> Record:
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        _without_nulls(message.headers() or []),  # type: ignore[arg-type]
    )


def _without_nulls(headers: list[Any]) -> Headers:
    """A header of Kafka may have no value, which is an empty one here. None of ours is so: they are
    given back as they are.
    """
    for _, value in headers:
        if value is None:
            return [(name, value or b"") for name, value in headers]
    return headers


def fetch(consumer: Consumer, timeout: float) -> list[Record]:
    """Waits for one record, then takes what is there. (`consume(n, t)` waits the whole of t unless
    n came.)
    """
    first = consumer.poll(timeout)
    if first is None:
        return []
    records = []
    for message in (first, *consumer.consume(_BATCH, 0)):
        error = message.error()
        if error is None:
            records.append(to_record(message))
        else:
            logger.warning("reading: %s", error.str())
    return records


def in_pieces(records: list[Record]) -> Iterator[list[Record]]:
    """Cut where the values come to _PIECE_BYTES: between two pieces the event loop does what else
    there is to do.

    Five hundred records of a thousand streams are 20,000 tokens, and a quarter of a second; libuv
    accepts one connection in each of the loop's turns, and some clients waited for theirs for eight
    seconds.
    """
    begin, size = 0, 0
    for index, record in enumerate(records, 1):
        size += len(record.value or b"")
        if size >= _PIECE_BYTES:
            yield records[begin:index]
            begin, size = index, 0
    if begin < len(records):
        yield records[begin:]


class KafkaLogReader(ReaderThread):
    """Reads given partitions of a topic without a group."""

    def __init__(
        self,
        settings: BusSettings,
        topic: str,
        partitions: Sequence[int],
        begin: From,
        on_records: OnRecords,
    ) -> None:
        super().__init__(
            f"kafka-reader-{topic}", topic, lambda: Consumer(consumer_properties(settings))
        )
        self._partitions = partitions
        self._from = begin
        self._on_records = on_records
        self._positions: dict[int, int] = {}
        self._bounds: dict[int, tuple[int, int]] = {}
        self._fetched: dict[int, int] = {}  # the next offset of each partition; of the thread

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._bounds[partition]

    def position(self, partition: int) -> int:
        return self._positions[partition]

    def deliver(self, records: Sequence[Record]) -> None:
        for record in records:
            self._positions[record.partition] = record.offset + 1
        self._on_records(records)

    def begin(self, consumer: Consumer) -> None:
        if not self._fetched:
            self._find_start(consumer)
        consumer.assign(
            [
                TopicPartition(self._topic, partition, offset)
                for partition, offset in self._fetched.items()
            ]
        )

    def _find_start(self, consumer: Consumer) -> None:
        for partition in self._partitions:
            place = TopicPartition(self._topic, partition)
            self._bounds[partition] = bounds = patiently(
                partial(consumer.get_watermark_offsets, place, timeout=_CALL_SECONDS)
            )
            self._positions[partition] = _start(consumer, place, self._from, *bounds)
        self._fetched = dict(self._positions)

    def turn(self, consumer: Consumer) -> None:
        for records in in_pieces(fetch(consumer, _POLL_SECONDS)):
            self._fetched.update({record.partition: record.offset + 1 for record in records})
            self.hand_over(records)


def _start(consumer: Consumer, place: TopicPartition, begin: From, low: int, high: int) -> int:
    """Where reading starts, inside what the partition holds. Raises KafkaException."""
    if isinstance(begin, At):
        return min(max(begin.offset, low), high)
    if isinstance(begin, Since):
        wanted = TopicPartition(place.topic, place.partition, begin.timestamp)
        found = consumer.offsets_for_times([wanted], timeout=_CALL_SECONDS)[0].offset
        return found if found >= 0 else high
    return high if begin is Start.END else low
