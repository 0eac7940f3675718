"""The two halves of a topic's partitions: by number alone, and every worker has both."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.lanes import halves

TOPICS = (8, 12, 16, 24, 32, 64)  # partitions


def shares(partitions: int, workers: int) -> list[tuple[int, ...]]:
    """What assignors hand out: neighbours to each worker, or to each every so manieth."""
    bounds = [partitions * number // workers for number in range(workers + 1)]
    blocks = [tuple(range(begin, end)) for begin, end in pairwise(bounds)]
    return [*blocks, *(tuple(range(first, partitions, workers)) for first in range(workers))]


@given(st.sets(st.integers(0, 200), min_size=2).map(sorted).map(tuple))
def test_each_partition_is_in_one_half_and_no_half_is_empty(partitions):
    quiet, crowd = halves(partitions)
    assert sorted(quiet + crowd) == list(partitions)
    assert quiet
    assert crowd


@pytest.mark.parametrize("partitions", TOPICS)
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
def test_whoever_has_eight_has_at_least_a_quarter_of_them_in_each_half(partitions, workers):
    for share in shares(partitions, workers):
        if len(share) >= 8:
            assert min(map(len, halves(share))) >= len(share) / 4, share


@pytest.mark.parametrize("partitions", TOPICS)
@pytest.mark.parametrize("workers", range(1, 9))
def test_a_partition_stays_in_its_half_when_it_moves_to_a_worker_that_has_six(partitions, workers):
    whole = halves(tuple(range(partitions)))
    for share in shares(partitions, workers):
        if len(share) >= 6:
            quiet, crowd = halves(share)
            assert set(quiet) <= set(whole.quiet)
            assert set(crowd) <= set(whole.crowd)


def test_a_single_partition_is_both_and_of_one_kind_every_other_one_stands_in():
    assert halves((5,)) == ((5,), (5,))
    assert halves(()) == ((), ())
    quiet, _ = halves(tuple(range(16)))
    assert halves(quiet[:3]) == (quiet[:3:2], quiet[1:2])
