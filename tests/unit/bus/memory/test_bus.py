"""What the memory bus keeps and drops. What it shares with Kafka is in
tests/contract/test_bus*.py.
"""

import asyncio
from collections.abc import Sequence

import pytest

from app.bus.base import Assignment, At, Record, Start, TopicSpec
from app.bus.memory.bus import MemoryBus
from app.config.settings import load_settings
from app.errors import BusFull, NotDelivered

REPLIES, QUEUE, MODELS = "llm.replies", "llm.requests.m", "llm.models"


async def started(budget: int = 64 * 1024) -> MemoryBus:
    bus = MemoryBus(load_settings({}).bus, budget=budget)
    await bus.start()
    compact = {"cleanup.policy": "compact,delete"}
    await bus.ensure_topics(
        [TopicSpec(REPLIES, 2), TopicSpec(QUEUE, 2), TopicSpec(MODELS, 1, compact)]
    )
    return bus


async def turn_the_loop() -> None:
    """Lets what is scheduled by now run, and what that schedules."""
    for _ in range(5):
        await asyncio.sleep(0)


async def kept_in(bus: MemoryBus, topic: str, partition: int) -> list[Record]:
    records: list[Record] = []
    reader = await bus.log_reader(topic, [partition], Start.BEGINNING, records.extend)
    await turn_the_loop()
    begin, end = reader.bounds(partition)
    await reader.close()
    assert [record.offset for record in records if not begin <= record.offset < end] == []
    return records


def fill(bus: MemoryBus) -> int:
    """Sends requests to partition 0 until the bus is full; gives back how many it took."""
    for sent in range(10_000):
        try:
            bus.send(QUEUE, bytes(1000), key=b"k", headers=[], partition=0)
        except BusFull:
            return sent
    raise AssertionError("the bus takes whatever is sent")


class Worker:
    """Takes all it is handed; commits nothing by itself."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.assigned: list[Assignment] = []

    def on_assigned(self, assigned: Sequence[Assignment]) -> None:
        self.assigned += assigned

    def on_revoked(self, partitions: Sequence[int]) -> None: ...

    def on_records(self, records: Sequence[Record]) -> None:
        self.records += records


async def test_an_acknowledgement_needs_no_turn_of_the_loop():
    bus = await started()
    assert bus.send(QUEUE, b"x", key=b"k", headers=[], partition=1).result() == (1, 0)


async def test_a_shared_topic_drops_its_oldest_records_over_the_budget():
    bus = await started()
    for number in range(1000):
        await bus.send(REPLIES, b"%0999d" % number, key=b"k", headers=[], partition=0)
    kept = await kept_in(bus, REPLIES, 0)
    assert 10 < len(kept) < 64
    assert [record.offset for record in kept] == list(range(1000 - len(kept), 1000))
    assert await bus.ends(REPLIES) == {0: 1000, 1: 0}


async def test_a_reader_below_the_beginning_starts_at_the_beginning():
    bus = await started()
    for number in range(1000):
        await bus.send(REPLIES, b"%0999d" % number, key=b"k", headers=[], partition=0)
    kept = await kept_in(bus, REPLIES, 0)
    seen: list[Record] = []
    reader = await bus.log_reader(REPLIES, [0], At(3), seen.extend)
    assert reader.position(0) == kept[0].offset
    await turn_the_loop()
    assert seen == kept


async def test_one_record_over_the_whole_budget_is_taken():
    bus = await started()
    for topic in (REPLIES, QUEUE):
        await bus.send(topic, bytes(200_000), key=b"k", headers=[], partition=0)
        assert [len(record.value or b"") for record in await kept_in(bus, topic, 0)] == [200_000]


async def test_requests_that_no_group_has_done_are_never_dropped():
    bus = await started()
    sent = fill(bus)
    assert sent > 10
    assert len(await kept_in(bus, QUEUE, 0)) == sent
    assert (await bus.send(QUEUE, b"", key=b"k", headers=[], partition=1)).offset == 0, (
        "another partition has room"
    )


async def test_requests_are_dropped_once_all_groups_have_committed_them():
    bus = await started()
    one, two = Worker(), Worker()
    readers = [
        await bus.group_reader(QUEUE, name, w, buffer=10_000)
        for name, w in (("one", one), ("two", two))
    ]
    await turn_the_loop()
    sent = fill(bus)
    await turn_the_loop()
    readers[0].commit(0, sent)
    with pytest.raises(BusFull):
        bus.send(QUEUE, bytes(1000), key=b"k", headers=[], partition=0)
    readers[1].commit(0, sent // 2)
    await bus.send(QUEUE, bytes(1000), key=b"k", headers=[], partition=0)
    kept = await kept_in(bus, QUEUE, 0)
    assert [record.offset for record in kept] == list(range(sent + 1 - len(kept), sent + 1))
    assert kept[0].offset <= sent // 2
    await turn_the_loop()
    assert len(one.records) == len(two.records) == sent + 1


async def test_what_is_done_is_kept_while_there_is_room_for_it():
    bus = await started()
    worker = Worker()
    reader = await bus.group_reader(QUEUE, "one", worker, buffer=10)
    await turn_the_loop()
    await bus.send(QUEUE, b"x", key=b"k", headers=[], partition=0)
    reader.commit(0, 1)
    await bus.send(QUEUE, b"y", key=b"k", headers=[], partition=0)
    assert [record.value for record in await kept_in(bus, QUEUE, 0)] == [b"x", b"y"]


async def test_a_compacted_topic_shows_a_new_reader_the_last_value_of_each_key():
    bus = await started()
    for number in range(10):
        await bus.send(MODELS, b"%d" % number, key=b"%d" % (number % 3), headers=[])
    await bus.send(MODELS, None, key=b"1", headers=[])
    await bus.send(MODELS, b"new", key=b"3", headers=[])
    seen: list[Record] = []
    reader = await bus.log_reader(MODELS, [0], Start.BEGINNING, seen.extend)
    await turn_the_loop()
    assert [(record.key, record.value) for record in seen] == [
        (b"2", b"8"),
        (b"0", b"9"),
        (b"3", b"new"),
    ]
    assert reader.position(0) == 12


async def test_a_compacted_topic_stays_small_and_its_follower_misses_nothing():
    bus = await started()
    seen: list[Record] = []
    await bus.log_reader(MODELS, [0], Start.BEGINNING, seen.extend)
    for number in range(5000):
        await bus.send(MODELS, b"%d" % number, key=b"%d" % (number % 3), headers=[])
        if number % 50 == 0:
            await asyncio.sleep(0)
    await turn_the_loop()
    assert [record.offset for record in seen] == list(range(5000))
    assert len(await kept_in(bus, MODELS, 0)) < 200


async def test_a_reader_reaches_the_end_of_a_compacted_topic_whose_newest_record_is_a_removal():
    bus = await started()
    await bus.send(MODELS, b"card", key=b"m", headers=[])
    await bus.send(MODELS, None, key=b"m", headers=[])
    seen: list[Record] = []
    reader = await bus.log_reader(MODELS, [0], Start.BEGINNING, seen.extend)
    await turn_the_loop()
    assert reader.position(0) == 2
    assert [record.value for record in seen] == [None]


async def test_a_backlog_comes_in_batches_with_turns_of_the_loop_between_them():
    bus = await started(budget=64 * 1024 * 1024)
    batches: list[int] = []
    for _ in range(1200):
        await bus.send(REPLIES, b"x", key=b"k", headers=[], partition=0)
    await bus.log_reader(
        REPLIES, [0], Start.BEGINNING, lambda records: batches.append(len(records))
    )
    await turn_the_loop()
    assert batches == [500, 500, 200]


async def test_a_late_commit_of_a_partition_that_was_given_away_changes_nothing():
    bus = await started()
    first, second = Worker(), Worker()
    one = await bus.group_reader(QUEUE, "g", first, buffer=10)
    await turn_the_loop()
    await bus.group_reader(QUEUE, "g", second, buffer=10)
    await turn_the_loop()
    [moved] = second.assigned
    await bus.send(QUEUE, b"x", key=b"k", headers=[], partition=moved.partition)
    one.commit(moved.partition, 1)
    assert await bus.committed(QUEUE, "g") == {}


async def test_a_join_moves_no_more_partitions_than_it_must():
    bus = await started()
    await bus.ensure_topics([TopicSpec("llm.requests.four", 4)])
    workers = [Worker() for _ in range(3)]
    for worker in workers:
        await bus.group_reader("llm.requests.four", "g", worker, buffer=10)
        await turn_the_loop()
    assert [len(worker.assigned) for worker in workers] == [4, 2, 1]


async def test_taking_more_than_was_handed_over_makes_no_more_room_than_the_buffer():
    bus = await started()
    worker = Worker()
    reader = await bus.group_reader(QUEUE, "g", worker, buffer=2)
    await turn_the_loop()
    for _ in range(5):
        reader.took(0)
    for _ in range(10):
        await bus.send(QUEUE, b"x", key=b"k", headers=[], partition=0)
    await turn_the_loop()
    assert len(worker.records) == 2


async def test_a_listener_that_fails_does_not_stop_its_group():
    bus = await started()
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: faults.append(context["exception"])
    )
    faults: list[BaseException] = []

    class Failing(Worker):
        def on_revoked(self, partitions: Sequence[int]) -> None:
            raise RuntimeError("broken listener")

    await bus.group_reader(QUEUE, "g", Failing(), buffer=10)
    await turn_the_loop()
    other = Worker()
    await bus.group_reader(QUEUE, "g", other, buffer=10)
    await turn_the_loop()
    assert [str(fault) for fault in faults] == ["broken listener"]
    assert len(other.assigned) == 1


async def test_a_closed_bus_takes_nothing_and_says_why():
    bus = await started()
    await bus.close()
    assert bus.healthy() == "the bus is closed"
    with pytest.raises(NotDelivered, match="closed"):
        await bus.send(QUEUE, b"x", key=b"k", headers=[])
