"""Looks for the records of single ids in long partitions.

One pass serves all look-ups that wait for the same part of a partition. Between passes the owners
of look-ups (tenants) take turns: one that asks for a thousand places of a day's log delays the
others by a pass each, not by a thousand.
"""

import asyncio
from asyncio import Future, Task
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.bus.base import At, Bus, Record
from app.protocol.reply_batch import record_ids

# records between two stretches that are read along rather than in a pass of their own; a request's
# may be large
_NEAR = 100
_END = 1 << 62  # the log's


@dataclass(slots=True, eq=False)
class _Wanted:
    id: bytes
    begin: int
    until: int | None
    visit: Callable[[Record], object]
    first_kept: "Future[int]"
    owner: str = ""
    has_all: bool = False

    @property
    def end(self) -> int:
        return _END if self.until is None else self.until

    def show(self, record: Record) -> None:
        try:
            self.has_all = bool(self.visit(record))
        except Exception as error:  # noqa: BLE001 - who asked hears of it; the others' look-ups go on
            self.has_all = True
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if not self.first_kept.done():
            self.first_kept.set_exception(error)


class RecordScanner:
    """One pass at a time per partition; what is asked meanwhile waits for the next ones."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # a partition is here while its task runs
        self._waiting: dict[tuple[str, int], list[_Wanted]] = {}
        self._tasks: set[Task[None]] = set()

    async def look(
        self,
        topic: str,
        partition: int,
        id_: str,
        begin: int,
        visit: Callable[[Record], object],
        *,
        until: int | None = None,
        owner: str = "",
    ) -> int:
        """Shows `visit` each record of the id from `begin` to the log's end at this moment (or
        before `until`).

        Once `visit` has answered with something true it has all it wants, and the pass goes on for
        others only.

        Returns the first offset that the partition still keeps. Raises BusError, and what `visit`
        raises.
        """
        wanted = _Wanted(
            id_.encode(), begin, until, visit, asyncio.get_running_loop().create_future(), owner
        )
        place = (topic, partition)
        if place in self._waiting:
            self._waiting[place].append(wanted)
        else:
            self._waiting[place] = [wanted]
            task = asyncio.create_task(self._passes(*place))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await wanted.first_kept

    async def _passes(self, topic: str, partition: int) -> None:
        """Make passes while look-ups wait, each for the owner that has had the fewest, and for what
        lies near.
        """
        had: Counter[str] = Counter()
        while waiting := self._waiting[topic, partition]:
            first = min(waiting, key=lambda one: had[one.owner])
            had[first.owner] += 1
            near = next(group for group in _side_by_side(waiting) if first in group)
            taken = set(near)
            self._waiting[topic, partition] = [one for one in waiting if one not in taken]
            await self._pass(topic, partition, near)
        del self._waiting[topic, partition]

    async def _pass(self, topic: str, partition: int, wanted: list[_Wanted]) -> None:
        by_id: dict[bytes, list[_Wanted]] = {}
        for one in wanted:
            by_id.setdefault(one.id, []).append(one)
        begin, end = min(one.begin for one in wanted), max(one.end for one in wanted)

        def seen(records: Sequence[Record]) -> bool:
            for record in records:
                for one in [
                    one for id_ in record_ids(record.headers) for one in by_id.get(id_, ())
                ]:
                    if one.begin <= record.offset < one.end and not one.has_all:
                        one.show(record)
            return all(one.has_all for one in wanted)

        try:
            low = await read_stretch(self._bus, topic, partition, begin, end, seen)
        except Exception as error:  # noqa: BLE001 - those who wait hear of it; whoever asks next has a pass again
            for one in wanted:
                one.fail(error)
        else:
            for one in wanted:
                if not one.first_kept.done():
                    one.first_kept.set_result(low)


def _side_by_side(wanted: list[_Wanted]) -> list[list[_Wanted]]:
    """Those whose stretches overlap or lie near each other, together: what lies between two that do
    not may be a day's log.
    """
    first, *others = sorted(wanted, key=lambda one: one.begin)
    groups, end = [[first]], first.end
    for one in others:
        if one.begin <= end + _NEAR:
            groups[-1].append(one)
            end = max(end, one.end)
        else:
            groups.append([one])
            end = one.end
    return groups


async def read_stretch(
    bus: Bus,
    topic: str,
    partition: int,
    begin: int,
    until: int | None,
    seen: Callable[[Sequence[Record]], object],
) -> int:
    """Hands over the records from `begin` to before `until`, at most to the end of this moment, or
    until `seen` answers with something true. Returns the first one kept. Raises BusError, and what
    `seen` raises.
    """
    ended: Future[None] = asyncio.get_running_loop().create_future()
    end = _END

    def on_records(records: Sequence[Record]) -> None:
        if ended.done():
            return
        within = (
            [record for record in records if record.offset < end]
            if records[-1].offset >= end
            else records
        )
        try:
            if seen(within) or records[-1].offset + 1 >= end:
                ended.set_result(None)
        except Exception as error:  # noqa: BLE001 - it would end in the event loop's log, and whoever waits here would wait on
            ended.set_exception(error)

    reader = await bus.log_reader(topic, [partition], At(begin), on_records)
    try:
        low, high = reader.bounds(partition)
        end = high if until is None else min(until, high)
        if reader.position(partition) < end:
            await ended
        return low
    finally:
        await reader.close()
