"""A member of a consumer group on one topic, with flow control per partition and commits up to a
watermark.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from app.bus.base import Assignment, GroupListener, Record
from app.bus.kafka.client import logger, reason
from app.bus.kafka.consumer_thread import ReaderThread
from app.bus.kafka.reader import consumer_properties, fetch
from app.config.bus_settings import BusSettings

_POLL_SECONDS = 0.1
_POLL_PAUSED_SECONDS = 0.02  # a full buffer has room again within this
_COMMIT_SECONDS = 0.2
_CALL_SECONDS = 5.0
_AGAIN_SECONDS = 0.1
_LOOK_UP_SECONDS = 20.0


class _Held:
    """A partition from its assignment to its revocation: what is said late of an earlier one
    changes nothing of the next.
    """

    __slots__ = ("handed", "position", "sent", "surplus", "taken", "to_commit")

    def __init__(self, position: int) -> None:
        self.position = position
        self.to_commit = position  # written by the loop only
        self.taken = 0  # the same
        self.sent = position  # committed or on the way
        self.handed = 0
        self.surplus: deque[Record] = deque()  # fetched, and no room yet

    @property
    def waiting(self) -> int:
        """In the caller's buffer."""
        return self.handed - self.taken

    def hand(self, buffer: int) -> list[Record]:
        """What there is room for in the caller's buffer; the rest waits here, and the partition is
        paused meanwhile.
        """
        count = max(0, min(len(self.surplus), buffer - self.waiting))
        self.handed += count
        return [self.surplus.popleft() for _ in range(count)]


class KafkaGroupReader(ReaderThread):
    """Polls on while its buffers are full (partitions are paused), so the group never takes it for
    dead.
    """

    def __init__(
        self,
        settings: BusSettings,
        protocol: str,
        topic: str,
        group: str,
        listener: GroupListener,
        *,
        buffer: int,
    ) -> None:
        conf = consumer_properties(
            settings,
            **{
                "group.id": group,
                "fetch.wait.max.ms": 20,
                "queued.min.messages": 1000,
                "on_commit": self._committed,
            },
            **protocol_properties(protocol),
        )
        super().__init__(f"kafka-group-{group}", topic, lambda: Consumer(conf))
        self._listener = listener
        self._buffer = buffer
        self._told: dict[int, _Held] = {}  # what the listener has heard of; of the loop
        self._owned: dict[int, _Held] = {}  # of the thread, as is what follows
        self._paused: set[int] = set()
        self._next_commit = 0.0

    # On the event loop.

    def took(self, partition: int) -> None:
        held = self._told.get(partition)
        if held is not None:
            held.taken += 1

    def commit(self, partition: int, offset: int) -> None:
        held = self._told.get(partition)
        if held is not None:
            held.to_commit = offset

    def deliver(self, records: Sequence[Record]) -> None:
        self._listener.on_records(records)

    def _tell_assigned(self, held: dict[int, _Held], assigned: list[Assignment]) -> None:
        self._told.update(held)
        self._listener.on_assigned(assigned)

    def _tell_revoked(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._told.pop(partition, None)
        self._listener.on_revoked(partitions)

    # In the thread from here on.

    def begin(self, consumer: Consumer) -> None:
        if self._owned:
            self._give_up(list(self._owned))  # they were the last consumer's
        self._consumer = consumer
        consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def turn(self, consumer: Consumer) -> None:
        for record in fetch(consumer, _POLL_PAUSED_SECONDS if self._paused else _POLL_SECONDS):
            held = self._owned.get(record.partition)
            if held is not None:  # else it was revoked while this was fetched
                held.surplus.append(record)
        records = [
            record
            for held in self._owned.values()
            if held.surplus
            for record in held.hand(self._buffer)
        ]
        if records:
            self.hand_over(records)
        self._control_flow(consumer)
        if time.monotonic() >= self._next_commit:
            self._write_commits(consumer, self._owned)

    def end(self, consumer: Consumer) -> None:
        self._write_commits(consumer, self._owned)

    def _control_flow(self, consumer: Consumer) -> None:
        """Pauses what is full and resumes what has room. A partition stays paused when it moves
        away and comes back.
        """
        running = self._owned.keys() - self._paused
        full = {
            p for p in running if self._owned[p].surplus or self._owned[p].waiting >= self._buffer
        }
        room = {
            p
            for p in self._paused
            if not self._owned[p].surplus and self._owned[p].waiting <= self._buffer // 2
        }
        try:
            if full:
                consumer.pause([TopicPartition(self._topic, partition) for partition in full])
            if room:
                consumer.resume([TopicPartition(self._topic, partition) for partition in room])
                self._wake_up(consumer, next(iter(room)))
        except (
            KafkaException
        ) as error:  # one of them has just been revoked; the next turn sees the new assignment
            logger.debug("flow control: %s", reason(error))
        self._paused = (self._paused | full) - room

    def _wake_up(self, consumer: Consumer, partition: int) -> None:
        """While all partitions are paused librdkafka's broker thread sleeps up to a second; a
        question wakes it (measured).
        """
        if self._paused == self._owned.keys():
            consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=_CALL_SECONDS
            )

    def _write_commits(self, consumer: Consumer, partitions: Iterable[int]) -> None:
        """Sends the commits that are due. A failed one is tried again with the next."""
        self._next_commit = time.monotonic() + _COMMIT_SECONDS
        found = [
            (p, held, held.to_commit)
            for p in partitions
            if (held := self._owned.get(p)) is not None
        ]
        due = [(p, held, offset) for p, held, offset in found if offset > held.sent]
        if not due:
            return
        try:
            consumer.commit(
                offsets=[TopicPartition(self._topic, p, offset) for p, _, offset in due],
                asynchronous=True,
            )
        except KafkaException as error:
            logger.info("commit put off: %s", reason(error))
        else:
            for _, held, offset in due:
                held.sent = offset

    def _committed(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        for place in places:
            held = self._owned.get(place.partition)
            if held is not None and (error is not None or place.error is not None):
                held.sent = held.position

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        assigned = self._look_up(consumer, places)
        held = {one.partition: _Held(one.position) for one in assigned}
        logger.info(
            "assigned of %s: %s",
            self._topic,
            ", ".join(f"{one.partition} from {one.position}" for one in assigned),
        )
        # With offsets of our own: where librdkafka asks for them itself and hears "not
        # coordinator", it never asks again and reads nothing
        # (https://github.com/confluentinc/librdkafka/issues/5586; seen when a broker had stood
        # still for 3 s).
        consumer.incremental_assign(
            [TopicPartition(self._topic, one.partition, one.position) for one in assigned]
        )
        self._owned |= held  # anew also where one was taken away without notice
        self._paused |= held.keys()  # the next turn resumes them, whatever they were before
        self.to_loop(self._tell_assigned, held, assigned)

    def _look_up(self, consumer: Consumer, places: list[TopicPartition]) -> list[Assignment]:
        """Asks again while the broker cannot say, for there is nothing else to begin from. Raises
        KafkaException in the end.
        """
        end = time.monotonic() + _LOOK_UP_SECONDS
        while True:
            try:
                committed = consumer.committed(places, timeout=_CALL_SECONDS)
                bounds = [
                    consumer.get_watermark_offsets(place, timeout=_CALL_SECONDS) for place in places
                ]
                return [
                    _assignment(place, *bound)
                    for place, bound in zip(committed, bounds, strict=True)
                ]
            except KafkaException as error:
                logger.info(
                    "assigned of %s, and offsets are not known yet: %s", self._topic, reason(error)
                )
                if self._closing.wait(_AGAIN_SECONDS) or time.monotonic() > end:
                    raise

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is self._consumer:
            partitions = [place.partition for place in places]
            self._write_commits(consumer, partitions)
            self._give_up(partitions)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is self._consumer:  # not one that was cut off and says it at its end
            self._give_up([place.partition for place in places])

    def _give_up(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)
            self._paused.discard(partition)
        logger.info("given up of %s: %s", self._topic, ", ".join(map(str, partitions)))
        self.to_loop(self._tell_revoked, partitions)


def _assignment(committed: TopicPartition, low: int, high: int) -> Assignment:
    """Raises KafkaException where the committed offset could not be had."""
    if committed.error is not None:
        raise KafkaException(committed.error)
    return Assignment(committed.partition, max(committed.offset, low), high)


def protocol_properties(protocol: str) -> dict[str, Any]:
    """`consumer` is KIP-848, whose timeouts are the broker's; `classic` brings its own."""
    if protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
    }
