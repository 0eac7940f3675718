"""A log whose passes are counted, and those who look something up in it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from app.bus.base import LogReader, OnRecords, Record
from app.bus.topic_configs import shared_specs
from app.errors import BusError
from app.reply_log.record_scanner import RecordScanner
from tests.unit.scene import TOPICS, ScriptedBus, settings

IDS = ["a", "b", "c", "d"]


class CountingBus(ScriptedBus):
    """Counts its log readers, those that are open, and the records that they are handed; refuses
    while it is told to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened = self.open = self.read = 0
        self.refuses = False

    async def log_reader(
        self, topic: str, partitions: Any, begin: Any, on_records: OnRecords
    ) -> LogReader:
        await asyncio.sleep(0.01)
        if self.refuses:
            raise BusError("away")

        def counting(records: Sequence[Record]) -> None:
            self.read += len(records)
            on_records(records)

        reader = await super().log_reader(topic, partitions, begin, counting)
        self.opened += 1
        self.open += 1
        close = reader.close

        async def closing() -> None:
            self.open -= 1
            await close()

        reader.close = closing  # type: ignore[method-assign]
        return reader

    async def write(self, *ids: str, partition: int = 0, size: int = 0) -> None:
        for id_ in ids:
            await self.send(
                TOPICS.replies,
                bytes(size),
                key=b"k",
                headers=[("v", b"1"), ("id", id_.encode())],
                partition=partition,
            )


async def started() -> CountingBus:
    bus = CountingBus()
    await bus.start()
    await bus.ensure_topics(shared_specs(settings().bus, TOPICS))
    return bus


class Looked:
    """One look-up: what it saw, in a task."""

    def __init__(
        self,
        scanner: RecordScanner,
        id_: str,
        begin: int = 0,
        until: int | None = None,
        partition: int = 0,
        owner: str = "",
    ) -> None:
        self.offsets: list[int] = []
        look = scanner.look(
            TOPICS.replies, partition, id_, begin, self._visit, until=until, owner=owner
        )
        self.task: asyncio.Task[int] = asyncio.create_task(look)

    def _visit(self, record: Record) -> None:
        self.offsets.append(record.offset)
