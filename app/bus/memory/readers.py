"""Readers of the memory bus: of given partitions, and members of a consumer group."""

import sys
from asyncio import AbstractEventLoop
from collections.abc import Sequence

from app.bus.base import Assignment, At, From, GroupListener, OnRecords, Record, Since, Start
from app.bus.memory.partition_log import PartitionLog

# records of one partition in one callback, so that a backlog does not stop the event loop
_BATCH = 500


class _Cursor:
    """Where a reader is in one partition, and how many records it may still be handed."""

    __slots__ = ("log", "position", "room")

    def __init__(self, log: PartitionLog, position: int, room: int) -> None:
        self.log = log
        self.position = position
        self.room = room

    def waiting(self) -> bool:
        return self.room > 0 and self.position < self.log.end

    def take(self) -> list[Record]:
        count = min(_BATCH, self.room)
        records = self.log.records(self.position, count)
        self.room -= len(records)
        self.position = records[-1].offset + 1 if len(records) == count else self.log.end
        return records


class _Reader:
    """Hands records over in batches, always from the event loop and never from within `send`."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._cursors: dict[int, _Cursor] = {}
        self._due: set[int] = set()

    def wake(self, partition: int) -> None:
        """Called for each record that is written: a delivery is under way, or will be."""
        if not self._due:
            self._loop.call_soon(self._deliver)
        self._due.add(partition)

    def position(self, partition: int) -> int:
        return self._cursors[partition].position

    def hand_over(self, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def _follow(self, log: PartitionLog, position: int, room: int) -> None:
        self._cursors[log.number] = _Cursor(log, position, room)
        if position < log.end:
            self.wake(log.number)

    def _leave(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._cursors.pop(partition).log.detach(self)

    def _deliver(self) -> None:
        due, self._due = self._due, set()
        batch: list[Record] = []
        for partition in due:
            cursor = self._cursors.get(partition)
            if cursor is not None and cursor.waiting():
                batch += cursor.take()
                if cursor.waiting():
                    self.wake(partition)
        if batch:
            self.hand_over(batch)


class MemoryLogReader(_Reader):
    """Reads given partitions, without a group."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        logs: Sequence[PartitionLog],
        begin: From,
        on_records: OnRecords,
    ) -> None:
        super().__init__(loop)
        self._on_records = on_records
        self._bounds: dict[int, tuple[int, int]] = {}
        for log in logs:
            log.attach(self)
            self._bounds[log.number] = log.begin, log.end
            self._follow(log, start_offset(log, begin), sys.maxsize)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._bounds[partition]

    def hand_over(self, records: Sequence[Record]) -> None:
        self._on_records(records)

    async def close(self) -> None:
        self._leave(list(self._cursors))


def start_offset(log: PartitionLog, begin: From) -> int:
    """Where reading starts, inside what the partition holds."""
    if isinstance(begin, At):
        return min(max(begin.offset, log.begin), log.end)
    if isinstance(begin, Since):
        return log.since(begin.timestamp)
    return log.end if begin is Start.END else log.begin


class MemoryGroupReader(_Reader):
    """A member of a group. Its group calls `assign` and `revoke` through the event loop, in the
    order of the facts.
    """

    def __init__(
        self, loop: AbstractEventLoop, group: "Group", listener: GroupListener, buffer: int
    ) -> None:
        super().__init__(loop)
        # by the group's decision; the listener hears of it a moment later
        self.owned: list[int] = []
        self._group = group
        self._listener = listener
        self._buffer = buffer
        self._closed = False

    def took(self, partition: int) -> None:
        cursor = self._cursors.get(partition)
        # else of a partition that was given away since
        if cursor is not None and cursor.room < self._buffer:
            cursor.room += 1
            if cursor.position < cursor.log.end:
                self.wake(partition)

    def commit(self, partition: int, offset: int) -> None:
        if partition in self._cursors and offset > self._group.committed.get(partition, -1):
            self._group.committed[partition] = offset

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._give_up(list(self._cursors))
        finally:
            self._group.leave(self)

    def hand_over(self, records: Sequence[Record]) -> None:
        self._listener.on_records(records)

    def assign(self, partitions: Sequence[int]) -> None:
        if self._closed:
            return
        for partition in partitions:
            log = self._group.logs[partition]
            log.attach(self)
            self._follow(log, max(self._group.committed.get(partition, 0), log.begin), self._buffer)
        cursors = [self._cursors[partition] for partition in partitions]
        self._listener.on_assigned(
            [Assignment(at.log.number, at.position, at.log.end) for at in cursors]
        )

    def revoke(self, partitions: Sequence[int]) -> None:
        if not self._closed:
            self._give_up(partitions)

    def _give_up(self, partitions: Sequence[int]) -> None:
        try:
            if partitions:
                self._listener.on_revoked(partitions)  # may commit
        finally:
            self._leave(partitions)


class Group:
    """A consumer group on one topic: what it has committed, and who owns which partition."""

    def __init__(self, loop: AbstractEventLoop, logs: Sequence[PartitionLog]) -> None:
        self.logs = logs
        self.committed: dict[int, int] = {}
        self._loop = loop
        self._members: list[MemoryGroupReader] = []

    def join(self, listener: GroupListener, buffer: int) -> MemoryGroupReader:
        member = MemoryGroupReader(self._loop, self, listener, buffer)
        self._members.append(member)
        self._rebalance()
        return member

    def leave(self, member: MemoryGroupReader) -> None:
        member.owned = []
        self._members.remove(member)
        if self._members:
            self._rebalance()

    def _rebalance(self) -> None:
        """Equal shares; nobody gives up a partition that fits in its share. All is revoked before
        anything is assigned.
        """
        least, more = divmod(len(self.logs), len(self._members))
        members = sorted(self._members, key=lambda member: len(member.owned), reverse=True)
        shares = [(member, least + (place < more)) for place, member in enumerate(members)]
        for member, share in shares:
            member.owned, lost = member.owned[:share], member.owned[share:]
            if lost:
                self._loop.call_soon(member.revoke, lost)
        free = set(range(len(self.logs))).difference(*(member.owned for member in members))
        for member, share in shares:
            gained = [free.pop() for _ in range(share - len(member.owned))]
            member.owned += gained
            if gained:
                self._loop.call_soon(member.assign, gained)
