"""A log of replies whose readers are slow, counted and seen to close, and clients that follow
it.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle

from app.bus.base import From, LogReader, OnRecords, Record
from app.bus.topic_configs import shared_specs
from app.errors import BusError
from app.protocol.records import ReplyRecord
from app.reply_log.reply_feed import Follower, ReplyFollowers
from tests.unit.scene import TOPICS, ScriptedBus, send_reply, settings

_OPENING = 0.01  # seconds; closing takes as long


IDS = [f"{number:032x}" for number in range(6)]


class CountingBus(ScriptedBus):
    """Knows its readers that are open, how many there were, the most at once, and how many records
    they were handed.

    Each reader lags behind the log by the next of `lags`, seconds.
    """

    def __init__(self, *lags: float) -> None:
        super().__init__()
        self.opened = self.open = self.most = self.handed = 0
        self.refuses = False
        self._lags = cycle(lags or (0.0,))

    async def log_reader(
        self, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords
    ) -> LogReader:
        lag, closed = next(self._lags), False

        def handed(records: Sequence[Record]) -> None:
            if not closed:
                self.handed += len(records)
                on_records(records)

        def late(records: Sequence[Record]) -> None:
            asyncio.get_running_loop().call_later(lag, handed, records)

        if self.refuses:
            raise BusError("away")
        await asyncio.sleep(_OPENING)
        reader = await super().log_reader(topic, partitions, begin, late if lag else handed)
        self.opened += 1
        self.open += 1
        self.most = max(self.most, self.open)
        close = reader.close

        async def closing() -> None:
            nonlocal closed
            self.open -= 1
            await asyncio.sleep(_OPENING)
            closed = True
            await close()

        reader.close = closing  # type: ignore[method-assign]
        return reader


class Log:
    """A partition of replies, and who follows what of it."""

    def __init__(self, bus: CountingBus) -> None:
        self.bus = bus
        self.followers = ReplyFollowers(bus, TOPICS.replies)
        self.written: list[tuple[str, int]] = []  # id, its number in the reply
        self._counts = Counter[str]()

    async def write(self, id_: str, count: int = 1, partition: int = 0) -> None:
        for _ in range(count):
            number = self._counts[id_]
            self._counts[id_] += 1
            await send_reply(self.bus, ReplyRecord(id_, "w", "data", number), partition)
            self.written.append((id_, number))

    def reader(self, id_: str, begin: int = 0, most: int = 10**6, partition: int = 0) -> "Reader":
        return Reader(self, id_, begin, most, partition)

    def expected(self, id_: str, begin: int, most: int) -> list[int]:
        return [number for other, number in self.written[begin:] if other == id_][:most]


class Reader:
    """One that follows; `most` records are enough for it."""

    def __init__(self, log: Log, id_: str, begin: int, most: int, partition: int) -> None:
        self.got: list[int] = []
        self.log, self.id, self.begin, self.most, self.partition = log, id_, begin, most, partition
        self.task: asyncio.Task[Follower] = asyncio.create_task(
            log.followers.follow(partition, begin, id_, self._feed)
        )

    def _feed(self, record: Record) -> bool:
        self.got.append(ReplyRecord.decode(record.headers, record.value).seq)
        return len(self.got) < self.most

    async def leave(self) -> None:
        self.log.followers.leave(self.partition, await self.task)

    def check(self) -> None:
        assert self.got == self.log.expected(self.id, self.begin, self.most)


async def started(*lags: float) -> Log:
    bus = CountingBus(*lags)
    await bus.start()
    await bus.ensure_topics(shared_specs(settings().bus, TOPICS))
    return Log(bus)
