"""What the loop says late of a partition, when the thread has it no more or has it anew, changes
nothing.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

from app.bus.base import Assignment, Record
from app.bus.kafka.group import KafkaGroupReader
from app.config.settings import load_settings
from tests.unit.scene import turns

TOPIC = "t"
BUFFER = 4


class Consumer:
    """Has been committed to `committed` by somebody; notes what is committed here, and hands over
    what it is given.
    """

    def __init__(self) -> None:
        self.at = 0
        self.written: list[int] = []
        self.coming: list[Message] = []

    def subscribe(self, *_: Any, **__: Any) -> None:
        pass

    incremental_assign = pause = resume = subscribe

    def committed(self, places: list[TopicPartition], **_: Any) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, place.partition, self.at) for place in places]

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        return 0, 1000

    def poll(self, _timeout: float) -> Message | None:
        return self.coming.pop(0) if self.coming else None

    def consume(self, *_: Any) -> list[Message]:
        found, self.coming = self.coming, []
        return found

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.written += [place.offset for place in offsets]


class Member:
    """A reader whose thread is the test itself."""

    def __init__(self) -> None:
        settings = load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1"}).bus
        self.reader = KafkaGroupReader(settings, "consumer", TOPIC, "g", self, buffer=BUFFER)
        self.consumer: Any = Consumer()
        self.reader.begin(self.consumer)
        self.offsets: list[int] = []

    def on_assigned(self, assigned: Sequence[Assignment]) -> None:
        pass

    def on_revoked(self, partitions: Sequence[int]) -> None:
        pass

    def on_records(self, records: Sequence[Record]) -> None:
        self.offsets += [record.offset for record in records]

    def assigned(self, at: int) -> None:
        self.consumer.at = at
        self.reader._assigned(self.consumer, [TopicPartition(TOPIC, 0)])

    def revoked(self) -> None:
        self.reader._revoked(self.consumer, [TopicPartition(TOPIC, 0)])

    def turn(self, *offsets: int) -> None:
        self.consumer.coming = [Message(TOPIC, 0, offset, b"k", b"v") for offset in offsets]
        self.reader._next_commit = 0.0
        self.reader.turn(self.consumer)


@pytest.fixture
async def member() -> Member:
    made = Member()
    made.assigned(100)
    await turns()
    return made


async def test_a_commit_is_written_once(member):
    member.reader.commit(0, 120)
    member.turn()
    member.turn()
    assert member.consumer.written == [120]


async def test_a_commit_that_was_refused_is_written_again(member):
    member.reader.commit(0, 120)
    member.turn()
    member.reader._committed("refused", [TopicPartition(TOPIC, 0)])  # type: ignore[arg-type]
    member.turn()
    assert member.consumer.written == [120, 120]


async def test_a_commit_that_comes_when_the_partition_has_been_elsewhere_is_not_written(member):
    member.revoked()
    member.assigned(500)  # by whoever had it meanwhile; the loop has not heard of either
    member.reader.commit(0, 120)
    member.turn()
    await turns()
    member.turn()
    assert member.consumer.written == []
    member.reader.commit(0, 501)
    member.turn()
    assert member.consumer.written == [501]


async def test_a_commit_below_where_the_partition_begins_is_not_written(member):
    member.reader.commit(0, 99)
    member.turn()
    assert member.consumer.written == []


async def test_room_that_is_made_late_is_none_of_the_next_assignments(member):
    member.turn(*range(100, 100 + BUFFER))
    await turns()
    member.revoked()
    member.assigned(500)
    for _ in range(BUFFER):
        member.reader.took(0)
    await turns()
    member.turn(*range(500, 500 + 2 * BUFFER))
    await turns()
    assert member.offsets[BUFFER:] == list(range(500, 500 + BUFFER))


async def test_what_was_fetched_of_a_partition_that_is_held_no_more_is_dropped(member):
    member.revoked()
    member.turn(100)
    member.assigned(500)
    member.turn()
    await turns()
    assert member.offsets == []
