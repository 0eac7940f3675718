"""What a worker was handed and has not started: turns between partitions, and what a revoked
partition still means.
"""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.consume.partition_buffers import PartitionBuffers, Taken
from app.bus.base import Assignment, Record
from app.protocol.lanes import split_into_lanes


class Reader:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.taken: Counter[int] = Counter()
        self.commits: list[tuple[int, int]] = []

    def took(self, partition: int) -> None:
        self.taken[partition] += 1

    def commit(self, partition: int, offset: int) -> None:
        self.commits.append((partition, offset))

    async def close(self) -> None: ...


class Desk:
    """An intake with its reader, and how often it called."""

    def __init__(self, *assigned: tuple[int, int, int]) -> None:
        self.changes = self.pumps = 0
        self.reader = Reader()
        self.intake = PartitionBuffers(self._changed, self._pumped)
        self.intake.attach(self.reader)
        self.assign(*assigned)

    def _changed(self) -> None:
        self.changes += 1

    def _pumped(self) -> None:
        self.pumps += 1

    def assign(self, *assigned: tuple[int, int, int]) -> None:
        self.intake.on_assigned([Assignment(*one) for one in assigned])

    def bring(self, partition: int, *offsets: int) -> None:
        self.intake.on_records(
            [Record("t", partition, offset, 0, None, b"", []) for offset in offsets]
        )

    def take(self) -> Taken:
        taken = self.intake.take()
        assert taken is not None
        return taken

    def take_all(self) -> list[Taken]:
        found = []
        while (taken := self.intake.take()) is not None:
            found.append(taken)
        return found


def places(found: list[Taken]) -> list[tuple[int, int]]:
    return [(taken.record.partition, taken.record.offset) for taken in found]


QUIET, CROWD = split_into_lanes(tuple(range(8)))


def of_all() -> Desk:
    return Desk(*[(partition, 0, 0) for partition in range(8)])


@pytest.mark.parametrize("half", [QUIET, CROWD])
def test_the_partitions_of_a_half_take_turns(half):
    first, second, third, _ = half
    desk = of_all()
    desk.bring(first, 0, 1, 2, 3)
    desk.bring(second, 0)
    desk.bring(third, 0, 1)
    order = [(first, 0), (second, 0), (third, 0), (first, 1), (third, 1), (first, 2), (first, 3)]
    assert places(desk.take_all()) == order


@given(st.dictionaries(st.integers(0, 7), st.integers(0, 6), max_size=8))
def test_a_long_partition_holds_up_no_other(counts):
    desk = of_all()
    for partition, count in counts.items():
        desk.bring(partition, *range(count))
    found = places(desk.take_all())
    for partition, count in counts.items():
        own = [place for place, (other, _) in enumerate(found) if other == partition]
        half = QUIET if partition in QUIET else CROWD
        assert [found[place][1] for place in own] == list(range(count)), (
            "in order within a partition"
        )
        for earlier, later in pairwise(own):
            between = Counter(other for other, _ in found[earlier + 1 : later] if other in half)
            assert all(times == 1 for times in between.values()), (
                "each other partition of the half at most once in between"
            )
    assert desk.reader.taken == Counter(
        {partition: count for partition, count in counts.items() if count}
    )


@given(st.lists(st.integers(1, 30), min_size=8, max_size=8), st.integers(0, 40))
def test_of_two_that_are_begun_one_is_of_the_quiet_half_while_some_wait_there(counts, before):
    """However much the crowd has waiting, and whoever was served before."""
    desk = of_all()
    for partition in CROWD:
        desk.bring(partition, *range(counts[partition]))
    for _ in range(before):
        desk.intake.take()
    for partition in QUIET:
        desk.bring(partition, *range(counts[partition]))
    order = [partition in CROWD for partition, _ in places(desk.take_all())]
    left = sum(not crowd for crowd in order)
    assert not order[0]
    assert sum(order[: 2 * left]) <= left


def test_one_half_alone_may_be_asked_for():
    desk = of_all()
    desk.bring(CROWD[0], 0, 1)
    assert desk.intake.take(crowd=False) is None
    desk.bring(QUIET[0], 0, 1)
    assert [desk.intake.take(crowd=False) is not None for _ in range(3)] == [True, True, False]
    assert desk.intake.take(quiet=False, crowd=False) is None
    taken = desk.intake.take(quiet=False)
    assert taken is not None
    assert (taken.crowd, taken.record.offset) == (True, 0)


def test_the_halves_are_divided_anew_when_partitions_move():
    desk = Desk(*[(partition, 0, 0) for partition in CROWD[:2]])
    for partition in CROWD[:2]:
        desk.bring(partition, 0, 1)
    desk.assign((QUIET[0], 0, 0))
    desk.bring(QUIET[0], 0)
    found = desk.take_all()
    assert {taken.record.partition: taken.crowd for taken in found} == {
        CROWD[0]: True,
        CROWD[1]: True,
        QUIET[0]: False,
    }
    assert len(found) == 5
    desk.bring(CROWD[0], 2)
    desk.intake.on_revoked([QUIET[0], CROWD[1]])
    assert places(desk.take_all()) == [(CROWD[0], 2)]


def test_without_a_reader_nothing_is_taken():
    intake = PartitionBuffers(lambda: None, lambda: None)
    intake.on_assigned([Assignment(0, 0, 0)])
    intake.on_records([Record("t", 0, 0, 0, None, b"", [])])
    assert intake.take() is None
    intake.attach(Reader())
    assert intake.take() is not None


def test_what_lay_below_the_end_at_assignment_may_be_a_redelivery():
    desk = Desk((0, 5, 7))
    desk.bring(0, 5, 6, 7, 8)
    assert [taken.redelivery for taken in desk.take_all()] == [True, True, False, False]


def test_what_waits_for_a_slot_is_not_begun():
    desk = Desk((0, 5, 9))
    desk.bring(0, 5, 6, 7, 8)
    first, second, third = (desk.take() for _ in range(3))
    assert (desk.intake.positions, desk.intake.waiting) == ({"0": 8}, 1)
    with desk.intake.queued(third), desk.intake.queued(second):
        assert (desk.intake.positions, desk.intake.waiting) == ({"0": 6}, 3)
    assert (desk.intake.positions, desk.intake.waiting) == ({"0": 8}, 1)
    desk.intake.on_revoked([0])
    with desk.intake.queued(first):
        assert (desk.intake.positions, desk.intake.waiting) == ({}, 0)


def test_commits_go_up_to_the_first_record_that_is_not_done():
    desk = Desk((0, 5, 5))
    desk.bring(0, 5, 6, 7)
    first, second, third = desk.take_all()
    for taken in (second, third, first):
        desk.intake.done(taken)
    assert desk.reader.commits == [(0, 5), (0, 5), (0, 8)]


def test_after_a_revoke_its_records_are_not_started_and_those_that_run_commit_nothing():
    desk = Desk((0, 0, 0), (1, 0, 0))
    desk.bring(0, 0, 1)
    desk.bring(1, 0)
    running = desk.take()
    desk.intake.on_revoked([0])
    assert not desk.intake.owns(running)
    desk.intake.done(running)
    assert desk.reader.commits == []
    assert places(desk.take_all()) == [(1, 0)]
    assert desk.intake.partitions == (1,)


def test_an_end_from_before_a_reassignment_does_not_commit_for_it():
    desk = Desk((0, 0, 0))
    desk.bring(0, 0, 1)
    before, _ = desk.take_all()
    desk.intake.on_revoked([0])
    desk.assign((0, 0, 2))
    desk.bring(0, 0, 1)
    again, after = desk.take_all()
    assert (desk.intake.owns(before), desk.intake.owns(again)) == (False, True)
    desk.intake.done(before)
    desk.intake.done(after)
    assert desk.reader.commits == [(0, 0)], "the first is not done for the new assignment"
    desk.intake.done(again)
    assert desk.reader.commits[-1] == (0, 2)


def test_records_of_a_partition_that_is_not_ours_are_dropped():
    desk = Desk((0, 0, 0))
    desk.bring(3, 0)
    assert desk.intake.take() is None


def test_a_heartbeat_is_told_the_partitions_positions_and_how_much_waits():
    desk = Desk((1, 4, 9), (0, 0, 0))
    assert (desk.intake.partitions, desk.intake.positions) == ((0, 1), {"1": 4, "0": 0})
    desk.bring(1, 4, 6)
    desk.bring(0, 0)
    assert desk.intake.waiting == 3
    desk.take_all()
    assert (desk.intake.positions, desk.intake.waiting) == ({"1": 7, "0": 1}, 0)


def test_every_change_of_partitions_is_told_and_every_batch_pumps():
    desk = Desk((0, 0, 0))
    before = desk.changes
    desk.intake.on_revoked([0])
    desk.assign((1, 0, 0))
    assert desk.changes == before + 2
    desk.bring(1, 0)
    assert desk.pumps == 1
