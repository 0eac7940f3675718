"""The contract of a bus, second half: consumer groups."""

import asyncio
import time

import pytest

from tests.contract.sending import in_order


async def send_all(bus, topic, count, partition=0, first=0):
    """Sends numbers in order, then waits for the acknowledgements."""
    numbers = range(first, first + count)
    await in_order(
        bus.send(topic, b"%d" % n, key=b"k", headers=[], partition=partition) for n in numbers
    )


async def committed_is(bus, topic, group, wanted):
    """Waits until the group has committed just that."""
    end = time.monotonic() + 30
    while (found := await bus.committed(topic, group)) != wanted:
        assert time.monotonic() < end, f"{found} is committed"
        await asyncio.sleep(0.02)


async def test_what_was_queued_before_the_groups_first_commit_is_read(bus, new_topic, join, until):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, 700, partition=0)
    await send_all(bus, topic, 3, partition=1)
    member = await join(bus, topic, f"{topic}.g")
    await until(lambda: len(member.records) == 703)
    assert member.offsets() == {0: list(range(700)), 1: [0, 1, 2]}


async def test_an_assignment_says_where_reading_begins_and_where_the_log_ended(
    bus, new_topic, join, until
):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, 5, partition=0)
    first = await join(bus, topic, f"{topic}.g", commit=False)
    await until(lambda: len(first.records) == 5 and len(first.assignments) == 2)
    assert sorted(first.assignments) == [(0, 0, 5), (1, 0, 0)]
    first.reader.commit(0, 3)
    await first.reader.close()

    second = await join(bus, topic, f"{topic}.g")
    await until(lambda: len(second.assignments) == 2)
    assert sorted(second.assignments) == [(0, 3, 5), (1, 0, 0)]


async def test_headers_and_binary_values_reach_a_group(bus, new_topic, join, until):
    topic = await new_topic(bus)
    headers = [("id", b"abc"), ("binary", bytes(range(256)))]
    await bus.send(topic, bytes(range(256)), key=b"\x00\xff", headers=headers)
    member = await join(bus, topic, f"{topic}.g")
    await until(lambda: len(member.records) == 1)
    [record] = member.records
    assert (record.topic, record.key, record.value, record.headers) == (
        topic,
        b"\x00\xff",
        bytes(range(256)),
        headers,
    )


async def test_members_share_the_partitions_and_each_record_goes_to_one(
    bus, new_topic, join, until
):
    topic = await new_topic(bus, 4)
    group = f"{topic}.g"
    one, two = await join(bus, topic, group), await join(bus, topic, group)
    await until(lambda: len(one.owned) == len(two.owned) == 2 and not one.owned & two.owned)
    for partition in range(4):
        await send_all(bus, topic, 20, partition)
    await until(lambda: len(one.records) + len(two.records) >= 80)
    assert {**one.offsets(), **two.offsets()} == {
        partition: list(range(20)) for partition in range(4)
    }
    assert set(one.offsets()) == one.owned
    assert set(two.offsets()) == two.owned


async def test_a_join_takes_away_only_what_it_needs(bus, new_topic, join, until):
    topic = await new_topic(bus, 6)
    group = f"{topic}.g"
    one = await join(bus, topic, group)
    await until(lambda: len(one.owned) == 6)
    two = await join(bus, topic, group)
    await until(lambda: len(one.owned) == len(two.owned) == 3)
    assert sorted(one.revoked) == sorted(two.owned)

    three = await join(bus, topic, group)
    await until(lambda: len(one.owned) == len(two.owned) == len(three.owned) == 2)
    assert sorted(one.revoked + two.revoked) == sorted([*one.revoked[:3], *three.owned])
    assert len(one.assignments) == 6, "a partition that stayed was not assigned again"


async def test_a_member_without_a_partition_takes_over_when_another_leaves(
    bus, new_topic, join, until
):
    topic = await new_topic(bus, 1)
    group = f"{topic}.g"
    one, two = await join(bus, topic, group), await join(bus, topic, group)
    await until(lambda: len(one.owned) + len(two.owned) == 1)
    owner, spare = (one, two) if one.owned else (two, one)
    await send_all(bus, topic, 5)
    await until(lambda: len(owner.records) == 5)
    await owner.reader.close()
    await send_all(bus, topic, 5, first=5)
    await until(lambda: len(spare.records) == 5)
    assert spare.offsets() == {0: [5, 6, 7, 8, 9]}


async def test_what_was_not_committed_goes_to_the_next_owner(bus, new_topic, join, until):
    topic = await new_topic(bus, 1)
    group = f"{topic}.g"
    await send_all(bus, topic, 10)
    one = await join(bus, topic, group, commit=False)
    await until(lambda: len(one.records) == 10)
    one.reader.commit(0, 4)
    await one.reader.close()
    await committed_is(bus, topic, group, {0: 4})

    two = await join(bus, topic, group)
    await until(lambda: len(two.records) == 6)
    assert two.offsets() == {0: [4, 5, 6, 7, 8, 9]}


async def test_a_member_that_leaves_gives_all_back_and_is_told_nothing_more(
    bus, new_topic, join, until
):
    topic = await new_topic(bus, 4)
    group = f"{topic}.g"
    one, two = await join(bus, topic, group), await join(bus, topic, group)
    await until(lambda: len(one.owned) == len(two.owned) == 2)
    await one.reader.close()
    assert one.owned == set()
    await until(lambda: len(two.owned) == 4)
    for partition in range(4):
        await send_all(bus, topic, 5, partition)
    await until(lambda: len(two.records) == 20)
    assert one.records == []


async def test_a_commit_is_written_when_the_partition_is_given_away(bus, new_topic, join, until):
    topic = await new_topic(bus, 4)
    group = f"{topic}.g"
    for partition in range(4):
        await send_all(bus, topic, 8, partition)
    one = await join(bus, topic, group, commit=False)
    await until(lambda: len(one.records) == 32)
    for partition in range(4):
        one.reader.commit(partition, 8)
    two = await join(bus, topic, group)
    await until(lambda: len(two.owned) == 2)
    assert sorted(two.assignments) == [(partition, 8, 8) for partition in sorted(two.owned)]
    for partition in range(4):
        await send_all(bus, topic, 1, partition)
    await until(lambda: len(one.records) + len(two.records) >= 36)
    assert two.offsets() == {partition: [8] for partition in two.owned}


async def test_a_commit_is_written_soon(bus, new_topic, join, until):
    topic = await new_topic(bus, 2)
    group = f"{topic}.g"
    await send_all(bus, topic, 5)
    member = await join(bus, topic, group, commit=False)
    await until(lambda: len(member.records) == 5)
    assert await bus.committed(topic, group) == {}
    member.reader.commit(0, 2)
    await committed_is(bus, topic, group, {0: 2})
    member.reader.commit(0, 5)
    await committed_is(bus, topic, group, {0: 5})

    member.reader.commit(0, 3)  # never backwards
    await member.reader.close()
    assert await bus.committed(topic, group) == {0: 5}


async def test_two_groups_on_one_topic_each_see_everything(bus, new_topic, join, until):
    topic = await new_topic(bus, 2)
    for partition in range(2):
        await send_all(bus, topic, 30, partition)
    one = await join(bus, topic, f"{topic}.one")
    await until(lambda: len(one.records) == 60)
    await committed_is(bus, topic, f"{topic}.one", {0: 30, 1: 30})
    assert await bus.committed(topic, f"{topic}.two") == {}

    two = await join(bus, topic, f"{topic}.two")
    for partition in range(2):
        await send_all(bus, topic, 10, partition, first=30)
    await until(lambda: len(one.records) == len(two.records) == 80)
    assert one.offsets() == two.offsets() == {0: list(range(40)), 1: list(range(40))}


@pytest.mark.parametrize("buffer", [1, 4])
async def test_no_more_than_the_buffer_is_handed_over_until_some_is_taken(
    bus, new_topic, join, until, buffer
):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, 20, partition=0)
    member = await join(bus, topic, f"{topic}.g", buffer=buffer, take=False, commit=False)
    for taken in range(20):
        await until(lambda taken=taken: len(member.records) > taken)
        assert len(member.records) <= taken + buffer
        member.reader.took(0)
    assert member.offsets() == {0: list(range(20))}


async def test_a_full_partition_does_not_hold_up_another(bus, new_topic, join, until):
    topic = await new_topic(bus, 2)
    await send_all(bus, topic, 50, partition=0)
    member = await join(bus, topic, f"{topic}.g", buffer=2, take=False, commit=False)
    await until(lambda: len(member.records) == 2)
    for number in range(20):
        await send_all(bus, topic, 1, partition=1)
        await until(lambda number=number: len(member.records) == number + 3)
        member.reader.took(1)
    assert member.offsets() == {0: [0, 1], 1: list(range(20))}


async def test_a_full_member_keeps_its_group_past_the_poll_interval(
    bus_factory, new_topic, join, until
):
    bus = await bus_factory(short_poll_interval=True)

    async def keeps_its_group():
        topic = await new_topic(bus, 1)
        group = f"{topic}.g"
        await send_all(bus, topic, 3)
        member = await join(bus, topic, group, buffer=1, take=False, commit=False)
        await until(lambda: len(member.records) == 1)
        full_for_longer = time.monotonic() + 2 * bus_factory.poll_interval
        await until(lambda: time.monotonic() >= full_for_longer)
        assert member.revoked == []
        assert member.offsets() == {0: [0]}

        member.reader.took(0)
        await until(lambda: len(member.records) == 2)
        member.reader.commit(0, 1)
        await committed_is(bus, topic, group, {0: 1})
        assert len(member.assignments) == 1

    # A machine that stands still for the interval ends a membership too: one of three that lasts is
    # enough.
    for more in (True, True, False):
        try:
            return await keeps_its_group()
        except AssertionError:
            if not more:
                raise


async def test_the_order_of_a_partition_holds_when_its_buffer_fills_again_and_again(
    bus, new_topic, join, until
):
    topic = await new_topic(bus, 3)
    group = f"{topic}.g"
    member = await join(bus, topic, group, buffer=7)
    for first in range(0, 200, 50):
        for partition in range(3):
            await send_all(bus, topic, 50, partition, first)
    await until(lambda: len(member.records) == 600)
    assert member.offsets() == {partition: list(range(200)) for partition in range(3)}
