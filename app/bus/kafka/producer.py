"""Sending to Kafka: one idempotent producer, one poll thread, acknowledgements handed over in
batches.
"""

import asyncio
import logging
import threading
from asyncio import Future
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from app.bus.base import Place
from app.bus.kafka.client import properties, reason
from app.bus.topic_configs import largest_record, largest_request
from app.config.bus_settings import BusSettings
from app.errors import BusError, BusFull, NotDelivered, RecordTooLarge, Unconfirmed
from app.protocol.records import Headers

logger = logging.getLogger("app.bus.kafka")

_KINDS = {KafkaError._QUEUE_FULL: BusFull, KafkaError.MSG_SIZE_TOO_LARGE: RecordTooLarge}
_REFUSALS = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})
_POLL_SECONDS = 0.1
_FLUSH_SECONDS = 5.0
_PURGE_SECONDS = 1.0  # for a producer that has ended to report what it still had
_BATCH_BYTES = 1_000_000  # librdkafka's default
_MOST_QUEUED = 128 * 1024 * 1024  # bytes; more comes together only while the brokers are away

# partition, and offset if there is one
_Ack: TypeAlias = "tuple[Future[Place], KafkaError | None, int, int | None]"


class KafkaProducer:
    """acks=all, no linger."""

    def __init__(self, settings: BusSettings) -> None:
        self._properties = properties(
            settings,
            **{
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "retry.backoff.ms": 50,
                "retry.backoff.max.ms": 500,
                "message.max.bytes": largest_record(settings),
                # A topic's limit is on a batch: what is sent together must fit where the smallest
                # records go.
                "batch.size": min(_BATCH_BYTES, largest_request(settings)),
                "queue.buffering.max.kbytes": max(_MOST_QUEUED, 2 * settings.max_body_bytes)
                // 1024,
                # What was queued outlives a broker's absence for as long as its request could.
                "message.timeout.ms": int(settings.request_timeout_seconds * 1000),
                "error_cb": self.on_error,
            },
        )
        self._producer = Producer(self._properties)
        self._loop = asyncio.get_running_loop()
        self._acks: list[_Ack] = []
        self._fatal = False
        self._closing = False
        self._patience = settings.admit_timeout_seconds
        self._under_way: dict[Future[Place], Producer] = {}  # records sent and not acknowledged
        # when the last one was acknowledged, or the first of those under way sent
        self._heard = 0.0
        self._unreachable = ""
        # why a broker was reached and would not have us, or we not it; empty since one last took a
        # record
        self.refusal = ""
        self._thread = threading.Thread(target=self._run, name="kafka-producer", daemon=True)
        self._thread.start()

    def send(
        self, topic: str, value: bytes | None, key: bytes, headers: Headers, partition: int | None
    ) -> "Future[Place]":
        future: Future[Place] = self._loop.create_future()
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        producer = self._producer
        try:
            producer.produce(
                topic,
                value,
                key,
                headers=cast(Any, headers),
                on_delivery=partial(self._delivered, future),
                **where,
            )
        except BufferError:
            raise BusFull("the producer's queue is full") from None
        except KafkaException as error:
            future.set_exception(_translated(error.args[0]))
            return future
        if not self._under_way:
            self._heard = self._loop.time()
        self._under_way[future] = producer
        return future

    def trouble(self) -> str:
        """Why the brokers are out of reach; empty while they answer. One that stands still says
        nothing at all.
        """
        silent = self._loop.time() - self._heard
        if self._under_way and silent > self._patience:
            return f"no broker has acknowledged anything for {silent:.0f} s"
        return self._unreachable

    async def close(self) -> None:
        self._closing = True
        await asyncio.to_thread(self._thread.join)

    def on_error(self, error: KafkaError) -> None:
        """librdkafka's notice, from any of its clients; in a thread."""
        if error.fatal():
            self._fatal = True
        if error.code() in _REFUSALS:
            self.refusal = self._unreachable = reason(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._unreachable = self.refusal or "no broker can be reached"

    # In the poll thread from here on.

    def _run(self) -> None:
        while not self._closing:
            self._producer.poll(_POLL_SECONDS)
            self._hand_over()
            if self._fatal:
                self._rebuild()
        self._producer.flush(_FLUSH_SECONDS)
        self._hand_over()

    def _delivered(
        self, future: "Future[Place]", error: KafkaError | None, message: Message
    ) -> None:
        self._acks.append((future, error, message.partition() or 0, message.offset()))

    def _hand_over(self) -> None:
        if self._acks:
            acks, self._acks = self._acks, []
            self._to_loop(self._resolve, acks)

    def _to_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return

    def _rebuild(self) -> None:
        """A fatal error ends an idempotent producer for good (its sequence is broken); a new one
        takes over.
        """
        logger.warning("the producer had a fatal error and is made anew")
        ended = self._producer
        self._producer = Producer(self._properties)
        ended.purge()
        ended.flush(_PURGE_SECONDS)
        self._fatal = False  # it may have said so again
        self._hand_over()
        self._to_loop(self._give_up, ended)

    # On the event loop.

    def _resolve(self, acks: "list[_Ack]") -> None:
        for future, error, partition, offset in acks:
            self._under_way.pop(future, None)
            if error is None:
                self._heard, self._unreachable, self.refusal = self._loop.time(), "", ""
            if future.done():
                continue
            if error is not None:
                future.set_exception(_translated(error))
            elif offset is None:
                # librdkafka reports a success without an offset where a later batch was
                # acknowledged, also for a batch that the broker had refused: of four partitions
                # made a moment ago one lacked its first records, all "acknowledged".
                # https://github.com/confluentinc/confluent-kafka-go/issues/921
                future.set_exception(
                    Unconfirmed("later records were acknowledged, this one was not")
                )
            else:
                future.set_result(Place(partition, offset))

    def _give_up(self, ended: Producer) -> None:
        """What a producer that has ended has not reported it never will."""
        for future in [future for future, producer in self._under_way.items() if producer is ended]:
            del self._under_way[future]
            if not future.done():
                future.set_exception(
                    NotDelivered("its producer had a fatal error and did not report it")
                )


def _translated(error: KafkaError) -> BusError:
    kind = _KINDS.get(error.code(), NotDelivered)
    return kind(reason(error))
