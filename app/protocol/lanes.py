"""Two halves of a topic's partitions: one for crowds (tenants with many waiting requests), one that
is kept quiet.

A partition's half follows from its number alone, so gateways and workers agree on it without a
word, and go on agreeing when partitions move from worker to worker. The golden ratio spreads both
halves evenly over whatever a worker may be assigned: neighbours as well as every second or third
partition. Every other one by number would give one of two workers all of one half.
"""

from functools import lru_cache
from typing import NamedTuple

_GOLDEN_RATIO = 0.6180339887498949


class PartitionLanes(NamedTuple):
    interactive: tuple[int, ...]
    bulk: tuple[int, ...]


@lru_cache(maxsize=1024)
def split_into_lanes(partitions: tuple[int, ...]) -> PartitionLanes:
    """A worker's partitions, divided; neither half is empty unless there are none.

    Where all are of one half by their numbers, every other one stands in for the other half, so
    that the worker serves both. A single partition is both.
    """
    lanes = PartitionLanes(
        tuple(partition for partition in partitions if not _is_bulk_partition(partition)),
        tuple(partition for partition in partitions if _is_bulk_partition(partition)),
    )
    if lanes.interactive and lanes.bulk:
        return lanes
    return PartitionLanes(partitions[::2], partitions[1::2] or partitions)


def _is_bulk_partition(partition: int) -> bool:
    return int(partition * _GOLDEN_RATIO) % 2 == 1
