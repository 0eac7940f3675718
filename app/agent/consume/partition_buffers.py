"""What a worker has been handed of its partitions and not started: a small buffer each, emptied
round-robin.

The two halves of the partitions take turns, and in each half its partitions: however much waits in
the crowd's half, every second request that is begun is of the quiet half, if one waits there.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.bus.base import Assignment, GroupReader, Record
from app.bus.watermark import Watermark
from app.protocol.lanes import split_into_lanes


@dataclass(slots=True)
class Lane:
    """One assigned partition."""

    end: int  # the log's end at assignment: what lies below it may be a redelivery
    watermark: Watermark
    next: int  # the next offset to take
    crowd: bool = False  # of the crowd's half
    buffer: deque[Record] = field(default_factory=deque)
    queued: set[int] = field(default_factory=set)  # offsets taken that wait for a slot

    @property
    def position(self) -> int:
        """The next offset to start on."""
        return min(self.queued, default=self.next)


@dataclass(frozen=True, slots=True)
class Taken:
    """A record to work on. `lane` identifies the assignment it came with: after a revoke its end
    commits nothing.
    """

    record: Record
    lane: Lane
    redelivery: bool  # another worker may have seen it
    crowd: bool  # of the crowd's half


class PartitionBuffers:
    """The group's listener. `on_change` hears that partitions came or went, `pump` that there may
    be something to start.
    """

    def __init__(self, on_change: Callable[[], None], pump: Callable[[], None]) -> None:
        self._lanes: dict[int, Lane] = {}
        # of each half: where records wait, in order
        self._turns: tuple[deque[int], deque[int]] = (deque(), deque())
        self._crowds_turn = False
        self._on_change = on_change
        self._pump = pump
        self._reader: GroupReader | None = None

    def attach(self, reader: GroupReader) -> None:
        self._reader = reader
        self._on_change()

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(sorted(self._lanes))

    @property
    def positions(self) -> dict[str, int]:
        return {str(partition): lane.position for partition, lane in self._lanes.items()}

    @property
    def waiting(self) -> int:
        return sum(len(lane.buffer) + len(lane.queued) for lane in self._lanes.values())

    def on_assigned(self, assigned: Sequence[Assignment]) -> None:
        for partition, position, end in assigned:
            self._drop(partition)  # where it was not given up before
            self._lanes[partition] = Lane(end, Watermark(position), position)
        self._divide()
        self._on_change()

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Running requests go on; the new owner sees them in our heartbeat. What had not started is
        the new owner's.
        """
        for partition in partitions:
            self._drop(partition)
        self._divide()
        self._on_change()

    def _drop(self, partition: int) -> None:
        lane = self._lanes.pop(partition, None)
        if lane is not None and lane.buffer:
            self._turns[lane.crowd].remove(partition)

    def _divide(self) -> None:
        """What half a partition is of may depend on the others that came or went with it."""
        crowd = split_into_lanes(self.partitions).bulk
        waiting = [*self._turns[False], *self._turns[True]]
        for turns in self._turns:
            turns.clear()
        for partition, lane in self._lanes.items():
            lane.crowd = partition in crowd
        for partition in waiting:
            self._turns[self._lanes[partition].crowd].append(partition)

    def on_records(self, records: Sequence[Record]) -> None:
        for record in records:
            lane = self._lanes.get(record.partition)
            if lane is None:
                continue
            if not lane.buffer:
                self._turns[lane.crowd].append(record.partition)
            lane.buffer.append(record)
        self._pump()

    def take(self, *, quiet: bool = True, crowd: bool = True) -> Taken | None:
        """The next record to start, of the half and the partition whose turn it is; None if nothing
        waits in those asked for.
        """
        others, crowds = self._turns
        if self._reader is None or not (others or crowds):
            return None
        half = self._crowds_turn if others and crowds else not others
        if not (crowd if half else quiet):
            half = not half
            if not self._turns[half] or not (crowd if half else quiet):
                return None
        self._crowds_turn = not half
        turns = self._turns[half]
        partition = turns.popleft()
        lane = self._lanes[partition]
        record = lane.buffer.popleft()
        if lane.buffer:
            turns.append(partition)
        return self._taken(lane, record, self._reader)

    def _taken(self, lane: Lane, record: Record, reader: GroupReader) -> Taken:
        reader.took(record.partition)
        lane.watermark.take(record.offset)
        lane.next = record.offset + 1
        return Taken(record, lane, record.offset < lane.end, lane.crowd)

    @contextmanager
    def queued(self, taken: Taken) -> Iterator[None]:
        """Meanwhile the record waits for a slot: it is not said to be begun."""
        taken.lane.queued.add(taken.record.offset)
        try:
            yield
        finally:
            taken.lane.queued.discard(taken.record.offset)

    def owns(self, taken: Taken) -> bool:
        """Whether the assignment that the record came with still stands."""
        return self._lanes.get(taken.record.partition) is taken.lane

    def done(self, taken: Taken) -> None:
        """The record needs no more work: its final reply is acknowledged, or it is nobody's."""
        partition = taken.record.partition
        position = taken.lane.watermark.done(taken.record.offset)
        if self._reader is not None and self.owns(taken):
            self._reader.commit(partition, position)
