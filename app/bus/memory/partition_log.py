"""One partition of the memory bus: its records, and which of them go when it grows."""

import time
from bisect import bisect_left
from collections.abc import Callable
from operator import attrgetter
from typing import Protocol

from app.bus.base import Record
from app.errors import BusFull
from app.protocol.records import Headers

_BESIDE_VALUE = 1536  # bytes: the tuple, its key and ten headers or so as Python objects
_CLEAN_AFTER = 64  # superseded records of a compacted partition

_offset = attrgetter("offset")


class Follower(Protocol):
    """Who is told that a partition has grown."""

    def wake(self, partition: int) -> None: ...

    def position(self, partition: int) -> int: ...


class PartitionLog:
    """Records in the order of their offsets. Over its budget (bytes) it drops the oldest."""

    def __init__(self, topic: str, number: int, budget: int) -> None:
        self.number = number
        self.begin = 0  # the first offset that is kept
        self.end = 0  # the next offset
        self._topic = topic
        self._budget = budget
        self._bytes = 0
        self._records: list[Record] = []
        self._followers: list[Follower] = []

    def append(self, key: bytes, value: bytes | None, headers: Headers) -> int:
        """Gives back the offset. Raises BusFull where nothing may be dropped."""
        size = _BESIDE_VALUE + len(value or b"")
        if self._bytes + size > self._budget:
            self._make_room(size)
        offset = self.end
        timestamp = int(time.time() * 1000)
        self._records.append(
            Record(self._topic, self.number, offset, timestamp, key, value, headers[:])
        )
        self.end = offset + 1
        self._bytes += size
        for follower in self._followers:
            follower.wake(self.number)
        return offset

    def attach(self, follower: Follower) -> None:
        self._followers.append(follower)

    def detach(self, follower: Follower) -> None:
        self._followers.remove(follower)

    def records(self, begin: int, count: int) -> list[Record]:
        """At most `count` records at offset `begin` or later."""
        first = self._index(begin)
        return self._records[first : first + count]

    def since(self, timestamp: int) -> int:
        """The offset of the first record of that time or later (milliseconds since the epoch), else
        the end.
        """
        return next(
            (record.offset for record in self._records if record.timestamp >= timestamp), self.end
        )

    def _index(self, offset: int) -> int:
        guess = offset - self.begin
        if guess <= 0:
            return 0
        # no gaps before it: the usual case
        if guess < len(self._records) and self._records[guess].offset == offset:
            return guess
        return bisect_left(self._records, offset, key=_offset)

    def _make_room(self, size: int) -> None:
        # an eighth at a time, so that most appends drop nothing
        self._drop(self._budget * 7 // 8 - size, before=self.end)

    def _drop(self, target: int, before: int) -> None:
        """Drops the oldest records below offset `before` until `target` bytes are left."""
        count = 0
        for record in self._records:
            if self._bytes <= target or record.offset >= before:
                break
            self._bytes -= _BESIDE_VALUE + len(record.value or b"")
            count += 1
        if count:
            del self._records[:count]
            self.begin = self._records[0].offset if self._records else self.end


class QueueLog(PartitionLog):
    """Never loses what a group has still to do: it drops only what is `done` (the offset all groups
    have committed).

    What is done is kept up to an allowance, for look-ups by id; what is not, up to the budget.
    """

    def __init__(
        self, topic: str, number: int, budget: int, allowance: int, done: Callable[[int], int]
    ) -> None:
        super().__init__(topic, number, allowance)
        self._most = budget
        self._done = done

    def _make_room(self, size: int) -> None:
        self._drop(self._budget * 7 // 8 - size, before=self._done(self.number))
        if self._records and self._bytes + size > self._most:
            raise BusFull(
                f"{self._topic}[{self.number}] holds {self._bytes} bytes that no worker "
                f"has finished"
            )


class CompactLog(PartitionLog):
    """Keeps the last value of each key; a record without a value removes its key."""

    def __init__(self, topic: str, number: int) -> None:
        super().__init__(topic, number, 0)  # no room at all, so each append asks
        self._clean_at = _CLEAN_AFTER

    def attach(self, follower: Follower) -> None:
        self._clean()
        super().attach(follower)

    def _make_room(self, size: int) -> None:
        if len(self._records) >= self._clean_at:
            self._clean()

    def _clean(self) -> None:
        """What a follower has still to see stays, so that nobody who keeps up misses a record; and
        so does the newest, so that whoever reads to the end gets there.
        """
        seen = min(
            (follower.position(self.number) for follower in self._followers), default=self.end
        )
        kept_from = min(seen, self.end - 1)
        last = {record.key: record.offset for record in self._records}
        self._records = [
            record
            for record in self._records
            if record.offset >= kept_from
            or (record.value is not None and last[record.key] == record.offset)
        ]
        self.begin = self._records[0].offset if self._records else self.end
        self._clean_at = 2 * len(self._records) + _CLEAN_AFTER
