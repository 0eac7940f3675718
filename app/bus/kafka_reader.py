"""Reading from Kafka: a synchronous consumer in a thread of its own, one hop to the event loop per batch."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from app.bus.base import At, From, OnRecords, Record, Since, Start
from app.bus.kafka_client import patiently, properties, reason
from app.bus.specs import ENVELOPE_BYTES
from app.errors import BusError
from app.settings import BusSettings

logger = logging.getLogger("app.bus.librdkafka")

_BATCH = 500
_BATCHES_UNDER_WAY = 2  # handed to the loop and not yet processed; beyond it the thread waits, so batches grow
_POLL_SECONDS = 0.1
_CALL_SECONDS = 10.0


def consumer_properties(settings: BusSettings, **ours: Any) -> dict[str, Any]:
    largest = settings.max_body + ENVELOPE_BYTES
    return properties(
        settings,
        **{
            "group.id": f"{settings.prefix}.readers",  # librdkafka wants one even where no group is used
            "auto.offset.reset": "earliest",  # its default would skip what was queued before a group's first commit
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "allow.auto.create.topics": False,
            "fetch.max.bytes": max(largest, 16 * 1024 * 1024),
            "receive.message.max.bytes": max(largest, 16 * 1024 * 1024) + 1024 * 1024,
            "queued.max.messages.kbytes": 32 * 1024,
            # A partition left out of a fetch waits until the next; with the default of a second that is a visible stall.
            "fetch.queue.backoff.ms": 10,
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
        message.headers() or [],  # type: ignore[arg-type]
    )


def fetch(consumer: Consumer, timeout: float) -> list[Record]:
    """Waits for one record, then takes what is there. (`consume(n, t)` waits the whole of t unless n came.)"""
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


class ReaderThread:
    """A thread that polls until closed; `begin` readies the consumer, `turn` is one round. Both run in the thread."""

    def __init__(self, name: str, make: Callable[[], Consumer]) -> None:
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._under_way = threading.Semaphore(_BATCHES_UNDER_WAY)
        self._go = threading.Event()  # the caller has its reader; no record comes before that
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self) -> None:
        """Raises BusError if the reader could not begin."""
        self._thread.start()
        await self._ready
        self._go.set()

    async def close(self) -> None:
        self._closing = True
        self._go.set()
        self._under_way.release()
        await asyncio.to_thread(self._thread.join)

    def begin(self, consumer: Consumer) -> None:
        raise NotImplementedError

    def turn(self, consumer: Consumer) -> None:
        raise NotImplementedError

    def end(self, consumer: Consumer) -> None:
        """Just before the consumer is closed."""

    def deliver(self, records: Sequence[Record]) -> None:
        """On the event loop: one batch."""
        raise NotImplementedError

    def to_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended
            self._closing = True

    def hand_over(self, records: list[Record]) -> None:
        self._under_way.acquire()
        self.to_loop(self._delivered, records)

    def _delivered(self, records: list[Record]) -> None:
        try:
            if not self._closing:
                self.deliver(records)
        finally:
            self._under_way.release()

    def _run(self) -> None:
        consumer = self._make()
        try:
            self.begin(consumer)
        except (KafkaException, BusError) as error:
            self.to_loop(_set_ready, self._ready, BusError(reason(error)))
        else:
            self.to_loop(_set_ready, self._ready)
            self._go.wait()
            while not self._closing:
                self.turn(consumer)
            self.end(consumer)
        consumer.close()


def _set_ready(future: "asyncio.Future[None]", error: BusError | None = None) -> None:
    if future.done():  # whoever waited has been cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class KafkaLogReader(ReaderThread):
    """Reads given partitions of a topic without a group."""

    def __init__(self, settings: BusSettings, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords) -> None:
        super().__init__(f"kafka-reader-{topic}", lambda: Consumer(consumer_properties(settings)))
        self._topic = topic
        self._partitions = partitions
        self._from = begin
        self._on_records = on_records
        self._positions: dict[int, int] = {}
        self._bounds: dict[int, tuple[int, int]] = {}

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._bounds[partition]

    def position(self, partition: int) -> int:
        return self._positions[partition]

    def deliver(self, records: Sequence[Record]) -> None:
        for record in records:
            self._positions[record.partition] = record.offset + 1
        self._on_records(records)

    def begin(self, consumer: Consumer) -> None:
        for partition in self._partitions:
            place = TopicPartition(self._topic, partition)
            self._bounds[partition] = bounds = patiently(partial(consumer.get_watermark_offsets, place, timeout=_CALL_SECONDS))
            self._positions[partition] = _start(consumer, place, self._from, *bounds)
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in self._positions.items()])

    def turn(self, consumer: Consumer) -> None:
        records = fetch(consumer, _POLL_SECONDS)
        if records:
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
