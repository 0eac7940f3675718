"""Follows the reply log while requests are taken over, so that a backlog of many thousands costs
one pass, not one for each.

A partition is read once from the earliest hint, and on, live. Of most requests in a backlog nothing
is there: their ids are not among those seen, which is known without another look. What is there of
the others is read in full.
"""

import asyncio
import logging
import time
from asyncio import Future
from collections import defaultdict
from collections.abc import Sequence

from app.bus.base import At, Bus, LogReader, Record
from app.errors import BusError
from app.protocol.records import RequestRecord
from app.protocol.reply_batch import record_ids
from app.protocol.reply_view import ReplyView
from app.reply_log.reply_lookup import ReplyLookup

logger = logging.getLogger("app.reply_log.backlog_feed")

_IDLE_SECONDS = 10.0
_MOST_IDS = 100_000  # of one tail, about 10 MB; more only where as many were there when it began


class _Tail:
    """One partition from `begin` on."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.ids: set[bytes] = set()  # that something is there of
        self.watched: dict[bytes, ReplyView] = {}
        self.reader: LogReader | None = None
        self.first_kept = 0
        self.asked = 0.0  # monotonic
        self._found = 0  # ids that it began with
        self._position = 0
        self._waiting: list[tuple[int, Future[None]]] = []

    async def start(self, bus: Bus, topic: str, partition: int) -> None:
        """Returns when it has read what is there. Raises BusError."""
        self.reader = await bus.log_reader(topic, [partition], At(self.begin), self._on_records)
        self.first_kept, end = self.reader.bounds(partition)
        self._position = max(self._position, self.reader.position(partition))
        await self.reached(end)
        self._found = self._size

    @property
    def is_full(self) -> bool:
        """It has grown so much since it began that another, begun where requests wait now, is
        cheaper.
        """
        return self._size > max(_MOST_IDS, 2 * self._found)

    @property
    def _size(self) -> int:
        return len(self.ids) + len(self.watched)

    async def close(self) -> None:
        """Those who wait are told to ask again."""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(BusError("the reply log is read anew"))
        if self.reader is not None:
            await self.reader.close()

    async def reached(self, offset: int) -> None:
        """Returns when everything below the offset has been read. Raises BusError."""
        if self._position < offset:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((offset, future))
            await future

    def _on_records(self, records: Sequence[Record]) -> None:
        for record in records:
            for id_ in record_ids(record.headers):
                if id_ in self.watched:
                    self._watch(id_, record)
                else:
                    self.ids.add(id_)
        self._position = records[-1].offset + 1
        reached = [
            future
            for offset, future in self._waiting
            if offset <= self._position and not future.done()
        ]
        self._waiting = [
            (offset, future) for offset, future in self._waiting if offset > self._position
        ]
        for future in reached:
            future.set_result(None)

    def _watch(self, id_: bytes, record: Record) -> None:
        try:
            self.watched[id_].apply_log_record(record.headers, record.value, id_, record.timestamp)
        except Exception:
            logger.exception("a reply cannot be read at %s[%d]@%d", *record[:3])
            # whoever asks hears of it from a look-up in full; the others' replies are read on
            del self.watched[id_]
            self.ids.add(id_)


class ReplyTails:
    """A tail for each reply partition that is being looked at; it ends when nobody has asked for a
    while, or it is full.
    """

    def __init__(self, bus: Bus, topic: str, lookup: ReplyLookup) -> None:
        self._bus = bus
        self._topic = topic
        self._lookup = lookup
        self._tails: dict[int, _Tail] = {}
        # hints of those who wait for a tail
        self._wanted: defaultdict[int, list[int]] = defaultdict(list)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ending: asyncio.Task[None] | None = None

    async def look(self, request: RequestRecord) -> ReplyView:
        """The reply so far; it may be a moment old. Raises BusError."""
        tail, id_ = await self._tail(request), request.id.encode()
        if id_ in tail.ids:
            return await self._lookup.look(request)
        return tail.watched.setdefault(
            id_, ReplyView(is_truncated=tail.first_kept > request.reply_offset)
        )

    async def look_past(self, request: RequestRecord, offset: int) -> ReplyView:
        """The reply as far as the record at `offset`, at least. Raises BusError."""
        tail, id_ = await self._tail(request), request.id.encode()
        await tail.reached(offset + 1)
        seen = tail.watched.pop(id_, None)
        tail.ids.add(id_)
        return await self._lookup.look(request) if seen is None else seen

    async def close(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        await asyncio.gather(*(tail.close() for tail in self._tails.values()))

    async def _tail(self, request: RequestRecord) -> _Tail:
        """The partition's tail, begun early enough for all who ask together. Raises BusError."""
        partition, hint = request.reply_partition, request.reply_offset
        self._wanted[partition].append(hint)
        try:
            async with self._locks[partition]:
                tail = self._tails.get(partition)
                if tail is None or tail.begin > hint or tail.is_full:
                    tail = await self._begin(partition, tail)
                tail.asked = time.monotonic()
                return tail
        finally:
            self._wanted[partition].remove(hint)

    async def _begin(self, partition: int, later: _Tail | None) -> _Tail:
        if later is not None:
            del self._tails[partition]
            await later.close()
        # those who were started with the one who asks have said what they want by now
        await asyncio.sleep(0)
        tail = _Tail(min(self._wanted[partition]))
        try:
            await tail.start(self._bus, self._topic, partition)
        except BaseException:  # who asked may have been cancelled
            await tail.close()
            raise
        self._tails[partition] = tail
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end_the_idle())
        return tail

    async def _end_the_idle(self) -> None:
        while self._tails:
            await asyncio.sleep(_IDLE_SECONDS)
            idle = [
                number
                for number, tail in self._tails.items()
                if time.monotonic() - tail.asked > _IDLE_SECONDS
            ]
            for tail in [self._tails.pop(partition) for partition in idle]:
                await tail.close()
