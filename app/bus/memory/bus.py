"""The bus inside one process and event loop: for trying out and for tests. Nothing outlives the
process.

Memory is bounded. The topics that a deployment shares (replies, control, ...) keep the newest
records of each partition, up to a budget; a compacted topic keeps the last value of each key. Any
other topic is a queue of requests: it keeps what a group has still to do, and refuses (BusFull)
what goes over the budget.
"""

import asyncio
import secrets
from asyncio import AbstractEventLoop, Future
from collections.abc import Sequence
from dataclasses import astuple
from zlib import crc32

from app.bus.base import (
    From,
    GroupListener,
    GroupReader,
    LogReader,
    OnRecords,
    Place,
    TopicSpec,
    shortfalls,
)
from app.bus.memory.partition_log import CompactLog, PartitionLog, QueueLog
from app.bus.memory.readers import Group, MemoryLogReader
from app.config.bus_settings import BusSettings
from app.errors import BusError, NotDelivered, RecordTooLarge
from app.protocol.records import Headers
from app.protocol.topics import Topics

_BUDGET = 64 * 1024 * 1024  # bytes a partition
_LARGEST = "1048588"  # Kafka's default of max.message.bytes


class _Topic:
    def __init__(self, spec: TopicSpec, budget: int, *, queue: bool) -> None:
        self.spec = spec
        self.largest = int(spec.config.get("max.message.bytes", _LARGEST))
        self.groups: dict[str, Group] = {}
        self.logs = [self._log(number, budget, queue) for number in range(spec.partitions)]

    def _log(self, number: int, budget: int, queue: bool) -> PartitionLog:
        if "compact" in self.spec.config.get("cleanup.policy", ""):
            return CompactLog(self.spec.name, number)
        if queue:
            return QueueLog(
                self.spec.name, number, budget, budget // self.spec.partitions, self._done
            )
        return PartitionLog(self.spec.name, number, budget)

    def _done(self, partition: int) -> int:
        """The offset below which every group has committed."""
        return min((group.committed.get(partition, 0) for group in self.groups.values()), default=0)


class MemoryBus:
    """`budget` is in bytes, for each partition."""

    def __init__(self, settings: BusSettings, *, budget: int = _BUDGET) -> None:
        self.deployment = secrets.token_hex(8)
        self._shared = frozenset(astuple(Topics.with_prefix(settings.prefix, settings.reply_topic)))
        self._budget = budget
        self._topics: dict[str, _Topic] = {}
        self._loop: AbstractEventLoop
        self._trouble = "the bus is not started"

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._trouble = ""

    async def close(self) -> None:
        self._trouble = "the bus is closed"

    def healthy(self) -> str:
        return self._trouble

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        """The record is in the log, and the future done, when this returns."""
        future: Future[Place] = self._loop.create_future()
        found = self._topics.get(topic)
        if found is None or self._trouble:
            future.set_exception(NotDelivered(self._trouble or f"there is no topic {topic}"))
            return future
        number = crc32(key) % len(found.logs) if partition is None else partition
        if not 0 <= number < len(found.logs):
            future.set_exception(NotDelivered(f"{topic} has no partition {number}"))
        elif value is not None and len(value) > found.largest:
            future.set_exception(
                RecordTooLarge(f"{topic} takes records of at most {found.largest} bytes")
            )
        else:
            future.set_result(Place(number, found.logs[number].append(key, value, headers)))
        return future

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        lines = []
        for spec in specs:
            found = self._topics.get(spec.name)
            if found is None:
                self._topics[spec.name] = _Topic(
                    spec, self._budget, queue=spec.name not in self._shared
                )
            else:
                lines += shortfalls(spec, found.spec.config)
        return lines

    async def partitions(self, topic: str) -> int:
        return len(self._topics[topic].logs) if topic in self._topics else 0

    async def group_reader(
        self, topic: str, group: str, listener: GroupListener, *, buffer: int
    ) -> GroupReader:
        found = self._topic(topic)
        if group not in found.groups:
            found.groups[group] = Group(self._loop, found.logs)
        return found.groups[group].join(listener, buffer)

    async def log_reader(
        self, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords
    ) -> LogReader:
        logs = [self._log(topic, partition) for partition in partitions]
        return MemoryLogReader(self._loop, logs, begin, on_records)

    async def ends(self, topic: str) -> dict[int, int]:
        return (
            {log.number: log.end for log in self._topics[topic].logs}
            if topic in self._topics
            else {}
        )

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        found = self._topics[topic].groups.get(group) if topic in self._topics else None
        return dict(found.committed) if found else {}

    def _topic(self, name: str) -> _Topic:
        if name not in self._topics:
            raise BusError(f"there is no topic {name}")
        return self._topics[name]

    def _log(self, topic: str, partition: int) -> PartitionLog:
        logs = self._topic(topic).logs
        if not 0 <= partition < len(logs):
            raise BusError(f"{topic} has no partition {partition}")
        return logs[partition]
