"""The two halves of a topic's partitions: by number alone, and every worker has both."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.lanes import split_into_lanes

TOPICS = (8, 12, 16, 24, 32, 64)  # partitions


def shares(partitions: int, workers: int) -> list[tuple[int, ...]]:
    """What assignors hand out: neighbours to each worker, or to each every so manieth."""
    bounds = [partitions * number // workers for number in range(workers + 1)]
    blocks = [tuple(range(begin, end)) for begin, end in pairwise(bounds)]
    return [*blocks, *(tuple(range(first, partitions, workers)) for first in range(workers))]


@given(st.sets(st.integers(0, 200), min_size=2).map(sorted).map(tuple))
def test_each_partition_is_in_one_half_and_no_half_is_empty(partitions):
    quiet, crowd = split_into_lanes(partitions)
    assert sorted(quiet + crowd) == list(partitions)
    assert quiet
    assert crowd


@pytest.mark.parametrize("partitions", TOPICS)
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
def test_whoever_has_eight_has_at_least_a_quarter_of_them_in_each_half(partitions, workers):
    for share in shares(partitions, workers):
        if len(share) >= 8:
            assert min(map(len, split_into_lanes(share))) >= len(share) / 4, share


@pytest.mark.parametrize("partitions", TOPICS)
@pytest.mark.parametrize("workers", range(1, 9))
def test_a_partition_stays_in_its_half_when_it_moves_to_a_worker_that_has_six(partitions, workers):
    whole = split_into_lanes(tuple(range(partitions)))
    for share in shares(partitions, workers):
        if len(share) >= 6:
            quiet, crowd = split_into_lanes(share)
            assert set(quiet) <= set(whole.interactive)
            assert set(crowd) <= set(whole.bulk)


def test_a_single_partition_is_both_and_of_one_kind_every_other_one_stands_in():
    assert split_into_lanes((5,)) == ((5,), (5,))
    assert split_into_lanes(()) == ((), ())
    quiet, _ = split_into_lanes(tuple(range(16)))
    assert split_into_lanes(quiet[:3]) == (quiet[:3:2], quiet[1:2])
