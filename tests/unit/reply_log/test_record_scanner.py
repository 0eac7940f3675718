"""Looking for single ids in long partitions: one pass serves all who wait, each sees its own
stretch, and nobody is forgotten.
"""

import asyncio
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from app.bus.base import Record
from app.reply_log import record_scanner as scan
from app.reply_log.record_scanner import RecordScanner, read_stretch
from tests.unit.reply_log.scanned import IDS, CountingBus, Looked, started
from tests.unit.scene import TOPICS, turns


@pytest.fixture
async def bus() -> CountingBus:
    return await started()


async def test_each_record_of_the_id_from_its_beginning_to_the_end_is_shown(bus):
    await bus.write(*"aabacab")
    looked = Looked(RecordScanner(bus), "a", begin=1)
    assert await looked.task == 0
    assert looked.offsets == [1, 3, 5]


async def test_before_until_and_no_further(bus):
    await bus.write(*"aaaa")
    for until, offsets in ((0, []), (2, [0, 1]), (4, [0, 1, 2, 3]), (99, [0, 1, 2, 3])):
        looked = Looked(RecordScanner(bus), "a", until=until)
        await looked.task
        assert looked.offsets == offsets


async def test_of_an_empty_partition_or_one_that_ends_before_nothing_is_shown(bus):
    for begin in (0, 7):
        looked = Looked(RecordScanner(bus), "a", begin=begin)
        assert await looked.task == 0
        assert looked.offsets == []


async def test_the_first_offset_that_is_still_kept_is_told(bus):
    await bus.write(*["a"] * 200, size=500_000)
    looked = Looked(RecordScanner(bus), "a", begin=3)
    low = await looked.task
    assert low > 3
    assert looked.offsets == list(range(low, 200))


async def test_all_who_ask_during_a_pass_share_the_next(bus):
    await bus.write(*"abcd" * 300)
    scanner = RecordScanner(bus)
    first = Looked(scanner, "a")
    await asyncio.sleep(0.005)
    others = [Looked(scanner, IDS[number % 4], begin=number) for number in range(1000)]
    await asyncio.gather(first.task, *(one.task for one in others))
    assert (bus.opened, bus.open) == (2, 0)
    for number, one in enumerate(others):
        assert one.offsets == [offset for offset in range(number, 1200) if offset % 4 == number % 4]


@pytest.mark.parametrize("count", [10, 100])
async def test_one_who_asks_for_many_places_delays_another_by_two_passes_and_not_by_all(bus, count):
    await bus.write(*["x"] * 200 * count)
    scanner = RecordScanner(bus)
    many = [
        Looked(scanner, "x", number * 200, number * 200 + 1, owner="many")
        for number in range(count)
    ]
    await turns()
    one = Looked(scanner, "x", 199 * count, 199 * count + 1, owner="one")
    await one.task
    assert bus.opened <= 2
    await asyncio.gather(*(each.task for each in many))
    assert [each.offsets for each in many] == [[number * 200] for number in range(count)]


async def test_what_is_written_before_it_asks_is_seen_even_if_a_pass_is_under_way(bus):
    await bus.write("a")
    scanner = RecordScanner(bus)
    first = Looked(scanner, "a")
    await asyncio.sleep(0.005)
    await bus.write("b")
    second = Looked(scanner, "b")
    await asyncio.gather(first.task, second.task)
    assert second.offsets == [1]


async def test_one_that_begins_earlier_or_ends_later_shows_the_others_nothing_more(bus):
    await bus.write(*"ababab")
    scanner = RecordScanner(bus)
    narrow, wide, early = (
        Looked(scanner, "a", 2, 3),
        Looked(scanner, "a"),
        Looked(scanner, "b", 0, 2),
    )
    await asyncio.gather(narrow.task, wide.task, early.task)
    assert (narrow.offsets, wide.offsets, early.offsets) == ([2], [0, 2, 4], [1])
    assert bus.opened == 1


async def test_what_lies_between_two_that_are_far_apart_is_not_read(bus):
    await bus.write("a", *["x"] * 20_000, "b", "c", *["x"] * 20_000, "d")
    scanner = RecordScanner(bus)
    asked = [("a", 0, 1), ("b", 20_001, 20_002), ("c", 20_002, 20_003), ("d", 40_003, None)]
    looks = [Looked(scanner, id_, begin, until) for id_, begin, until in asked]
    await asyncio.gather(*(one.task for one in looks))
    assert [one.offsets for one in looks] == [[begin] for _, begin, _ in asked]
    assert bus.read <= 2 * 3 * 500, "a batch or two for each place, not the partition"
    assert (bus.opened, bus.open) == (3, 0), "those that lie near each other share a pass"


async def test_a_stretch_inside_a_long_one_is_read_with_it_whatever_lies_between(bus):
    await bus.write(*["x"] * 5000, "a", *["x"] * 5000, "b")
    scanner = RecordScanner(bus)
    looks = [
        Looked(scanner, "a", 0),
        Looked(scanner, "x", 0, 1),
        Looked(scanner, "b", 10_001, 10_002),
    ]
    await asyncio.gather(*(one.task for one in looks))
    assert ([one.offsets for one in looks], bus.opened) == ([[5000], [0], [10_001]], 1)


async def test_partitions_are_read_beside_each_other(bus):
    await bus.write("a", partition=0)
    await bus.write("x", "a", partition=1)
    scanner = RecordScanner(bus)
    here, there = Looked(scanner, "a"), Looked(scanner, "a", partition=1)
    await asyncio.gather(here.task, there.task)
    assert (here.offsets, there.offsets) == ([0], [1])
    assert asyncio.get_running_loop().time() < 0.02


async def test_a_stretch_ends_at_the_end_of_the_moment_it_began(bus):
    await bus.write(*"ab")
    seen: list[int] = []

    def on_records(records: Any) -> None:
        seen.extend(record.offset for record in records)

    reading = asyncio.create_task(read_stretch(bus, TOPICS.replies, 0, 1, None, on_records))
    await reading
    await bus.write("a")
    await turns()
    assert (seen, bus.open) == ([1], 0)


@example_settings(max_examples=60)
@given(
    written=st.lists(st.sampled_from(IDS), max_size=30),
    asked=st.lists(
        st.tuples(
            st.sampled_from(IDS),
            st.integers(0, 30),
            st.none() | st.integers(0, 30),
            st.sampled_from([0, 0.004, 0.02]),
        ),
        max_size=12,
    ),
    near=st.sampled_from([0, 3, 100]),
)
async def test_whoever_asks_whenever_sees_exactly_its_own(written, asked, near):
    with patch.object(scan, "_NEAR", near):
        await _each_sees_its_own(written, asked)


async def _each_sees_its_own(written, asked):
    bus = await started()
    await bus.write(*written)
    scanner, looks = RecordScanner(bus), []
    for id_, begin, until, pause in asked:
        looks.append((Looked(scanner, id_, begin, until), id_, begin, until))
        await asyncio.sleep(pause)
    await asyncio.gather(*(one.task for one, *_ in looks))
    for one, id_, begin, until in looks:
        stretch = range(begin, min(len(written), len(written) if until is None else until))
        assert one.offsets == [offset for offset in stretch if written[offset] == id_]
    assert bus.open == 0


async def test_a_pass_ends_when_all_who_wait_have_what_they_want(bus):
    await bus.write(*["a", "a", "b"], *["c"] * 5000)
    scanner, seen = RecordScanner(bus), []

    def visit(record: Record) -> bool:
        seen.append(record.offset)
        return True

    await asyncio.gather(*[scanner.look(TOPICS.replies, 0, id_, 0, visit) for id_ in ("a", "b")])
    assert sorted(seen) == [0, 2]


async def test_a_stretch_is_read_no_further_than_its_reader_wants(bus):
    await bus.write(*["a"] * 5000)
    batches: list[int] = []
    await read_stretch(
        bus, TOPICS.replies, 0, 0, None, lambda records: batches.append(len(records)) or True
    )
    assert len(batches) == 1
    assert batches[0] < 5000
