"""Follows replies that other gateways' partitions hold, from their beginning and on, live. One
reader serves many.

A sweep reads one partition from the earliest place that any of its followers needs. Followers that
come meanwhile wait for the next sweep. A sweep that has caught up joins the one that is already
live: the one further behind goes on with all followers, each of which ignores what it has had. So a
partition costs one live reader and at most one that catches up.
"""

import asyncio
import logging
from asyncio import Task
from collections.abc import Callable, Sequence

from app.bus.base import At, Bus, LogReader, Record
from app.protocol.reply_batch import record_ids

logger = logging.getLogger("app.reply_log.reply_feed")

_GATHER_SECONDS = 0.02  # those who come together share a sweep


class Follower:
    """One reply being read. `feed` gets each record once, in order, and says whether it wants
    more.
    """

    __slots__ = ("caught_up", "feed", "id", "next")

    def __init__(self, id_: bytes, begin: int, feed: Callable[[Record], bool]) -> None:
        self.id = id_
        self.next = begin
        self.feed = feed
        self.caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, record: Record) -> bool:
        """Whether it wants more. A `feed` that raises is fed no more; the others go on."""
        self.next = record.offset + 1
        try:
            return self.feed(record)
        except Exception as error:
            logger.exception("a reply cannot be read at %s[%d]@%d", *record[:3])
            self.fail(error)
            return False

    def fail(self, error: Exception) -> None:
        if not self.caught_up.done():
            self.caught_up.set_exception(error)


class _Sweep:
    """One reader and its followers by id."""

    def __init__(self) -> None:
        self.followers: dict[bytes, list[Follower]] = {}
        self.reader: LogReader | None = None
        self.position = 0

    def add(self, follower: Follower) -> None:
        self.followers.setdefault(follower.id, []).append(follower)

    def remove(self, follower: Follower) -> None:
        kept = [other for other in self.followers.get(follower.id, []) if other is not follower]
        if kept:
            self.followers[follower.id] = kept
        else:
            self.followers.pop(follower.id, None)

    def on_records(self, records: Sequence[Record]) -> None:
        self.position = records[-1].offset + 1
        for record in records:
            for follower in [
                one for id_ in record_ids(record.headers) for one in self.followers.get(id_, ())
            ]:
                if record.offset >= follower.next and not follower.take(record):
                    self.remove(follower)


class ReplyFollowers:
    """All replies that this process reads from the log, besides its own inbox."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._waiting: dict[int, list[Follower]] = {}
        self._live: dict[int, _Sweep] = {}
        self._tasks: dict[int, Task[None]] = {}
        self._closing: set[Task[None]] = set()

    async def follow(
        self, partition: int, begin: int, id_: str, feed: Callable[[Record], bool]
    ) -> Follower:
        """Returns once everything that lay in the log has been fed; goes on until `feed` says no.

        Raises BusError, and what `feed` raises until then.
        """
        follower = Follower(id_.encode(), begin, feed)
        self._waiting.setdefault(partition, []).append(follower)
        if partition not in self._tasks:
            self._tasks[partition] = asyncio.create_task(self._sweep_while_wanted(partition))
        await follower.caught_up
        return follower

    def leave(self, partition: int, follower: Follower) -> None:
        """The client has left."""
        sweep = self._live.get(partition)
        if sweep is not None:
            sweep.remove(follower)
            self._end_if_idle(partition, sweep)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(
            *(sweep.reader.close() for sweep in self._live.values() if sweep.reader is not None)
        )

    async def _sweep_while_wanted(self, partition: int) -> None:
        await asyncio.sleep(_GATHER_SECONDS)
        while followers := self._waiting.pop(partition, None):
            try:
                await self._sweep(partition, followers)
            except Exception as error:  # noqa: BLE001 - they hear of it, and who comes next has a sweep again
                for follower in followers:
                    follower.fail(error)
        del self._tasks[partition]

    async def _sweep(self, partition: int, followers: list[Follower]) -> None:
        sweep, ended = _Sweep(), asyncio.Event()
        for follower in followers:
            sweep.add(follower)
        end = 1 << 62

        def on_records(records: Sequence[Record]) -> None:
            sweep.on_records(records)
            # a slow client takes a little at a time
            if sweep.position >= end or not sweep.followers:
                ended.set()
            self._end_if_idle(partition, sweep)

        reader = await self._bus.log_reader(
            self._topic, [partition], At(min(one.next for one in followers)), on_records
        )
        sweep.reader = reader
        end = reader.bounds(partition)[1]
        sweep.position = reader.position(partition)
        try:
            if sweep.position < end:
                await ended.wait()
        except asyncio.CancelledError:
            await reader.close()
            raise
        for follower in followers:
            if not follower.caught_up.done():
                follower.caught_up.set_result(None)
        if sweep.followers:
            await self._go_live(partition, sweep)
        else:
            await reader.close()

    async def _go_live(self, partition: int, sweep: _Sweep) -> None:
        """Of two live sweeps the one further behind goes on with the followers of both."""
        other = self._live.get(partition)
        kept, ended = sweep, other
        if other is not None and other.position <= sweep.position:
            kept, ended = other, sweep
        self._live[partition] = kept
        if ended is not None:
            for followers in ended.followers.values():
                for follower in followers:
                    follower.next = max(follower.next, ended.position)
                    kept.add(follower)
            ended.followers = {}
            if ended.reader is not None:
                await ended.reader.close()
        self._end_if_idle(partition, kept)

    def _end_if_idle(self, partition: int, sweep: _Sweep) -> None:
        if self._live.get(partition) is sweep and not sweep.followers and sweep.reader is not None:
            del self._live[partition]
            task = asyncio.create_task(sweep.reader.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
