"""The contract of a bus, first half: the log. The second half, groups, is in test_bus_groups.py."""

import asyncio
import os
import threading
import time
import uuid

import pytest

from app.bus.base import At, Place, Since, Start, TopicSpec
from app.errors import BusError, BusFull, NotDelivered, RecordTooLarge
from tests.contract.sending import in_order


async def send_all(bus, topic, values, partition=None):
    """Sends in order, then waits for the acknowledgements."""
    return await in_order(
        bus.send(topic, value, key=b"k", headers=[], partition=partition) for value in values
    )


def send_without_waiting(bus, topic, values, accepted):
    """Notes what was accepted, also when it ends with an error."""
    for value in values:
        future = bus.send(topic, value, key=b"k", headers=[])
        accepted.append((future, value))


def numbers(count, first=0):
    return [b"%d" % number for number in range(first, first + count)]


async def test_a_record_comes_back_as_it_was_sent(bus, new_topic, read_all):
    topic = await new_topic(bus)
    headers = [("id", b"abc"), ("empty", b""), ("binary", bytes(range(256))), ("id", b"again")]
    before = int(time.time() * 1000)
    given = list(headers)
    future = bus.send(topic, bytes(range(256)), key=b"\x00key\xff", headers=given)
    given.clear()  # the caller's list is its own again
    place = await future
    after = int(time.time() * 1000)

    assert place == Place(0, 0)
    [record] = await read_all(bus, topic)
    assert before <= record.timestamp <= after
    assert record == (topic, 0, 0, record.timestamp, b"\x00key\xff", bytes(range(256)), headers)


async def test_no_value_and_an_empty_value_are_two_things(bus, new_topic, read_all):
    topic = await new_topic(bus)
    await send_all(bus, topic, [None, b""])
    assert [record.value for record in await read_all(bus, topic)] == [None, b""]


async def test_a_value_of_a_megabyte_comes_whole(bus, new_topic, follow, until):
    topic = await new_topic(bus, 1, {"max.message.bytes": "2097152"})
    values = [os.urandom(1_048_576) for _ in range(3)]
    await send_all(bus, topic, values)
    log = await follow(bus, topic)
    await until(lambda: len(log.records) == 3)
    assert log.values() == values


async def test_records_of_a_partition_keep_the_order_of_the_sends(bus, new_topic, follow, until):
    topic = await new_topic(bus, 3)
    log = await follow(bus, topic, partitions=(0, 1, 2))
    sends = (
        bus.send(topic, b"%d" % n, key=b"%d" % n, headers=[], partition=n % 3) for n in range(300)
    )
    places = await in_order(sends, partitions=3)
    await until(lambda: len(log.records) == 300)
    for partition in range(3):
        assert [place.offset for place in places if place.partition == partition] == list(
            range(100)
        )
        found = [record for record in log.records if record.partition == partition]
        assert [record.offset for record in found] == list(range(100))
        assert [int(record.value) for record in found] == list(range(partition, 300, 3))


async def test_a_key_always_gets_the_same_partition_and_keys_spread(bus, new_topic):
    topic = await new_topic(bus, 4)
    await in_order(
        (bus.send(topic, b"0", key=b"k", headers=[], partition=number) for number in range(4)),
        partitions=4,
    )
    keys = [uuid.uuid4().hex.encode() for _ in range(64)]
    first = await asyncio.gather(*[bus.send(topic, b"1", key=key, headers=[]) for key in keys])
    second = await asyncio.gather(*[bus.send(topic, b"2", key=key, headers=[]) for key in keys])
    assert [place.partition for place in first] == [place.partition for place in second]
    assert {place.partition for place in first} == {0, 1, 2, 3}


async def test_records_come_on_the_event_loop_and_never_from_within_a_send(bus, new_topic, until):
    topic = await new_topic(bus)
    threads = []
    reader = await bus.log_reader(
        topic, [0], Start.BEGINNING, lambda records: threads.append(threading.get_ident())
    )
    future = bus.send(topic, b"x", key=b"k", headers=[])
    assert threads == []
    await future
    await until(lambda: bool(threads))
    assert set(threads) == {threading.get_ident()}
    await reader.close()


async def test_a_topic_that_is_not_there_takes_nothing(bus, new_topic):
    with pytest.raises(NotDelivered):
        await bus.send(f"test-{uuid.uuid4().hex}", b"x", key=b"k", headers=[])


async def test_a_partition_that_is_not_there_takes_nothing(bus, new_topic):
    topic = await new_topic(bus, 2)
    with pytest.raises(NotDelivered):
        await bus.send(topic, b"x", key=b"k", headers=[], partition=2)


async def test_a_value_over_the_topics_limit_is_refused_and_the_next_is_not(bus, new_topic):
    topic = await new_topic(bus, 1, {"max.message.bytes": "100000"})
    with pytest.raises(RecordTooLarge):
        await bus.send(topic, os.urandom(200_000), key=b"k", headers=[])
    assert await bus.send(topic, b"small", key=b"k", headers=[]) == Place(0, 0)


async def test_a_full_queue_refuses_and_what_it_took_is_not_lost(
    bus_factory, new_topic, join, until
):
    bus = await bus_factory(small_queue=True)
    topic = await new_topic(bus)
    await send_all(bus, topic, [b"first"])
    accepted = []
    with pytest.raises(BusFull):
        send_without_waiting(bus, topic, numbers(100_000), accepted)

    member = await join(bus, topic, f"{topic}.g")
    await until(lambda: len(member.records) > len(accepted))
    places = await asyncio.gather(*[future for future, _ in accepted])
    assert places == [Place(0, offset) for offset in range(1, 1 + len(accepted))]
    assert member.values() == [b"first", *(value for _, value in accepted)]

    await bus.send(topic, b"room again", key=b"k", headers=[])
    await until(lambda: member.values()[-1] == b"room again")


async def test_a_log_reader_needs_no_group_and_reads_all_from_the_beginning(
    bus, new_topic, follow, until
):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, numbers(1500), partition=0)
    await send_all(bus, topic, numbers(10, 1500), partition=1)
    one = await follow(bus, topic, partitions=(0, 1))
    other = await follow(bus, topic, partitions=(1,))
    await send_all(bus, topic, numbers(10, 1510), partition=1)
    await until(lambda: len(one.records) == 1520 and len(other.records) == 20)
    assert sorted(int(record.value) for record in one.records) == list(range(1520))
    assert other.values() == numbers(20, 1500)
    assert (one.reader.position(0), one.reader.position(1), other.reader.position(1)) == (
        1500,
        20,
        20,
    )


async def test_a_log_reader_from_the_end_reads_only_what_comes(bus, new_topic, follow, until):
    topic = await new_topic(bus)
    await send_all(bus, topic, numbers(5))
    log = await follow(bus, topic, Start.END)
    assert log.reader.position(0) == 5
    await send_all(bus, topic, numbers(5, 5))
    await until(lambda: len(log.records) == 5)
    assert log.values() == numbers(5, 5)


async def test_a_log_reader_begins_at_an_offset(bus, new_topic, follow, until):
    topic = await new_topic(bus)
    await send_all(bus, topic, numbers(10))
    log = await follow(bus, topic, At(7))
    assert log.reader.position(0) == 7
    await until(lambda: len(log.records) == 3)
    assert log.values() == numbers(3, 7)


async def test_a_log_reader_begins_at_a_time(bus, new_topic, follow, until, read_all):
    topic = await new_topic(bus)
    await send_all(bus, topic, numbers(5))
    last = (await read_all(bus, topic))[-1].timestamp
    await until(lambda: time.time() * 1000 >= last + 1)
    await send_all(bus, topic, numbers(5, 5))
    log = await follow(bus, topic, Since(last + 1))
    assert log.reader.position(0) == 5
    await until(lambda: len(log.records) == 5)
    assert log.values() == numbers(5, 5)


async def test_a_log_reader_from_a_time_after_all_records_begins_at_the_end(bus, new_topic, follow):
    topic = await new_topic(bus)
    await send_all(bus, topic, numbers(5))
    log = await follow(bus, topic, Since(int(time.time() * 1000) + 3_600_000))
    assert log.reader.position(0) == 5


async def test_a_closed_log_reader_is_told_nothing_more(bus, new_topic, follow, until):
    topic = await new_topic(bus)
    closed, witness = await follow(bus, topic), await follow(bus, topic)
    await send_all(bus, topic, numbers(1))
    await until(lambda: len(closed.records) == len(witness.records) == 1)
    await closed.reader.close()
    await send_all(bus, topic, numbers(1, 1))
    await until(lambda: len(witness.records) == 2)
    assert closed.values() == numbers(1)


async def test_a_log_reader_of_a_topic_that_is_not_there_is_an_error(bus):
    with pytest.raises(BusError):
        await bus.log_reader(f"test-{uuid.uuid4().hex}", [0], Start.BEGINNING, print)


async def test_a_log_reader_knows_what_was_kept_when_it_began(bus, new_topic, follow):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, numbers(10), partition=1)
    log = await follow(bus, topic, At(7), partitions=(0, 1))
    await send_all(bus, topic, numbers(5), partition=1)
    assert (log.reader.bounds(0), log.reader.bounds(1)) == ((0, 0), (0, 10))


async def test_no_record_comes_before_the_caller_has_its_reader(bus, new_topic):
    topic = await new_topic(bus)
    await send_all(bus, topic, numbers(10))
    facts = []

    async def open_reader():
        reader = await bus.log_reader(
            topic, [0], Start.BEGINNING, lambda records: facts.append("records")
        )
        facts.append("reader")
        return reader

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        opening = group.create_task(open_reader())
        while "records" not in facts or "reader" not in facts:
            await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251  a loop that is slow to come round: what comes from threads piles up
    assert facts[0] == "reader"
    await opening.result().close()


async def test_partitions_and_ends_are_those_of_the_topic(bus, new_topic):
    topic = await new_topic(bus, 3)
    assert await bus.partitions(topic) == 3
    assert await bus.ends(topic) == {0: 0, 1: 0, 2: 0}
    await send_all(bus, topic, numbers(5), partition=1)
    assert await bus.ends(topic) == {0: 0, 1: 5, 2: 0}


async def test_a_topic_that_is_not_there_has_no_partitions_and_no_ends(bus):
    missing = f"test-{uuid.uuid4().hex}"
    assert await bus.partitions(missing) == 0
    assert await bus.ends(missing) == {}
    assert await bus.committed(missing, f"{missing}.g") == {}


async def test_an_existing_topic_is_left_as_it_is_and_what_it_has_too_little_of_is_named(
    bus, new_topic
):
    topic = await new_topic(bus, 2, {"retention.ms": "3600000", "max.message.bytes": "1000000"})
    await send_all(bus, topic, numbers(3), partition=1)
    wanted = TopicSpec(topic, 5, {"retention.ms": "7200000", "max.message.bytes": "900000"})

    [line] = await bus.ensure_topics([wanted])
    assert line == f"{topic} has retention.ms=3600000, and 7200000 is needed"
    assert await bus.partitions(topic) == 2
    assert await bus.ends(topic) == {0: 0, 1: 3}


async def test_a_topic_can_be_asked_for_by_two_at_once(bus, new_topic):
    topic = await new_topic(bus, 2)
    assert await asyncio.gather(*[bus.ensure_topics([TopicSpec(topic, 2)]) for _ in range(3)]) == [
        [],
        [],
        [],
    ]


async def test_close_sends_what_is_queued(bus_factory, new_topic):
    bus, witness = await bus_factory(), await bus_factory()
    topic = await new_topic(bus)
    await send_all(bus, topic, [b"first"])
    futures = [bus.send(topic, value, key=b"k", headers=[]) for value in numbers(500)]
    await bus.close()
    assert [future.result().offset for future in futures] == list(range(1, 501))
    assert witness.healthy() == ""


async def test_a_started_bus_is_healthy_and_names_its_deployment(bus):
    assert bus.healthy() == ""
    assert bus.deployment
