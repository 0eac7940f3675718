"""The thread that a Kafka consumer lives in: one hop to the event loop per batch, and a new
consumer for one that is cut off.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException

from app.bus.base import Record
from app.bus.kafka.client import logger, reason
from app.errors import BusError

# handed to the loop and not yet processed; beyond it the thread waits, so batches grow
_BATCHES_UNDER_WAY = 2
_PROBE_SECONDS = 10.0
_PROBE_TIMEOUT = 5.0
_MISSES = 3  # probes in a row without an answer, then the consumer is given up
_AGAIN_SECONDS = 1.0
# a leave that a broker hears takes a tenth of it; without one librdkafka may wait for minutes, or
# for ever
_CLOSE_SECONDS = 5.0


class ReaderThread:
    """A thread that polls until closed; `begin` readies a consumer, `turn` is one round. Both run
    in the thread.

    A consumer that is cut off is replaced: where a cluster once says that it has no brokers (a
    single one that stood still and was fenced), librdkafka may forget them all and never ask again
    (https://github.com/confluentinc/librdkafka/issues/5301).
    """

    def __init__(self, name: str, topic: str, make: Callable[[], Consumer]) -> None:
        self._topic = topic
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closing = threading.Event()
        self._under_way = threading.Semaphore(_BATCHES_UNDER_WAY)
        self._go = threading.Event()  # the caller has its reader; no record comes before that
        self._misses = 0
        self._next_probe = time.monotonic() + _PROBE_SECONDS
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self) -> None:
        """Raises BusError if the reader could not begin."""
        self._thread.start()
        try:
            await self._ready
        except asyncio.CancelledError:
            self._closing.set()  # nobody will have this reader
            raise
        finally:
            self._go.set()

    async def close(self) -> None:
        """Its consumer commits and leaves; where no broker hears that, it is waited for a few
        seconds only.
        """
        self._closing.set()
        self._go.set()
        self._under_way.release()
        # of the call: where many readers are closed, threads to wait in may be few
        end = time.monotonic() + _CLOSE_SECONDS
        await asyncio.to_thread(lambda: self._thread.join(max(0.0, end - time.monotonic())))
        if self._thread.is_alive():
            logger.warning(
                "%s: no broker hears its goodbye; it is waited for no longer", self._thread.name
            )

    def begin(self, consumer: Consumer) -> None:
        """Once for each consumer. Raises KafkaException or BusError."""
        raise NotImplementedError

    def turn(self, consumer: Consumer) -> None:
        """Raises KafkaException or BusError where the consumer is of no more use."""
        raise NotImplementedError

    def end(self, consumer: Consumer) -> None:
        """Just before the last consumer is closed."""

    def deliver(self, records: Sequence[Record]) -> None:
        """On the event loop: one batch."""
        raise NotImplementedError

    def to_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended
            self._closing.set()

    def hand_over(self, records: list[Record]) -> None:
        self._under_way.acquire()
        self.to_loop(self._delivered, records)

    def _delivered(self, records: list[Record]) -> None:
        try:
            if not self._closing.is_set():
                self.deliver(records)
        finally:
            self._under_way.release()

    def _run(self) -> None:
        while self._lived():
            self._closing.wait(_AGAIN_SECONDS)

    def _lived(self) -> bool:
        """One consumer's life, until closed; true: until it was of no more use, and another takes
        its place.
        """
        consumer = None
        try:
            consumer = self._make()
            self.begin(consumer)
            self.to_loop(_set_ready, self._ready)
            self._go.wait()
            while not self._closing.is_set():
                self.turn(consumer)
                self._probe(consumer)
        except Exception as error:  # noqa: BLE001 - a thread that ends of it would leave a reader that reads nothing
            if self._goes_on(error):
                # elsewhere, as it may take long with nobody there to say goodbye to
                if consumer is not None:
                    threading.Thread(target=consumer.close, daemon=True).start()
                return True
        if consumer is not None:
            self.end(consumer)
            consumer.close()
        return False

    def _goes_on(self, error: Exception) -> bool:
        """Tells who waits for the reader to begin, or says that its consumer is replaced."""
        if not isinstance(error, KafkaException | BusError):
            logger.error("%s: a fault of ours", self._thread.name, exc_info=error)
        if not self._go.is_set():
            self.to_loop(_set_ready, self._ready, BusError(reason(error)))
            return False
        if self._closing.is_set():
            return False
        logger.warning(
            "%s: its consumer is cut off and another takes its place: %s",
            self._thread.name,
            reason(error),
        )
        return True

    def _probe(self, consumer: Consumer) -> None:
        """Now and then asks for metadata, as a consumer that is cut off says nothing. Raises the
        last of some errors in a row.
        """
        if time.monotonic() < self._next_probe:
            return
        self._next_probe = time.monotonic() + _PROBE_SECONDS
        try:
            consumer.list_topics(self._topic, timeout=_PROBE_TIMEOUT)
            self._misses = 0
        except KafkaException:
            self._misses += 1
            if self._misses == _MISSES:
                self._misses = 0
                raise


def _set_ready(future: "asyncio.Future[None]", error: BusError | None = None) -> None:
    if future.done():  # whoever waited has been cancelled, or has had its reader long since
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
