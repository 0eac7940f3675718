"""The contract of a bus: a durable, partitioned log with consumer groups. Kafka is one, memory is
another.

All methods and callbacks belong to one event loop. `tests/contract/test_bus.py` is the contract in
full.
"""

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from app.protocol.records import Headers


class Record(NamedTuple):
    """One record as it lies in the log. `timestamp` is milliseconds since the epoch. A header's
    value may be empty, not None.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Place(NamedTuple):
    """Where an acknowledged record lies."""

    partition: int
    offset: int


class Start(Enum):
    """Where a log reader begins, besides at an offset."""

    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True)
class At:
    """Begin at this offset (or at the log's beginning where that is later)."""

    offset: int


@dataclass(frozen=True)
class Since:
    """Begin at the first record of this time or later, milliseconds since the epoch."""

    timestamp: int


From: TypeAlias = Start | At | Since
OnRecords: TypeAlias = Callable[[Sequence[Record]], None]


@dataclass(frozen=True)
class TopicSpec:
    """A topic that must exist, and how it is made if it does not."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def shortfalls(spec: TopicSpec, there: Mapping[str, str | None]) -> list[str]:
    """Where an existing topic's settings do not do what ours would, a line each. More than we want
    is fine.
    """
    return [
        f"{spec.name} has {name}={there.get(name)}, and {wanted} is needed"
        for name, wanted in spec.config.items()
        if _less(there.get(name), wanted)
    ]


def _less(there: str | None, wanted: str) -> bool:
    if not wanted.isdigit():
        return there != wanted
    return there is not None and 0 <= int(there) < int(wanted)  # -1 is Kafka's "no limit"


class Assignment(NamedTuple):
    """A partition that was assigned: where reading begins and the log's end at that moment.

    Records below `end` may have been seen by another member before.
    """

    partition: int
    position: int
    end: int


class GroupListener(Protocol):
    """What a group reader tells; each call comes on the event loop, in the order of the facts."""

    def on_assigned(self, assigned: Sequence[Assignment]) -> None: ...

    def on_revoked(self, partitions: Sequence[int]) -> None: ...

    def on_records(self, records: Sequence[Record]) -> None: ...


class GroupReader(Protocol):
    """A member of a consumer group on one topic. At most `buffer` records per partition are handed
    over and not taken.
    """

    def took(self, partition: int) -> None:
        """One record of the partition has left the caller's buffer: there is room for another."""

    def commit(self, partition: int, offset: int) -> None:
        """Offsets below `offset` are done. Written soon, and at the latest when the partition is
        given away.
        """

    async def close(self) -> None:
        """Commits, leaves the group at once, ends."""


class LogReader(Protocol):
    """A reader of given partitions, without a group."""

    def position(self, partition: int) -> int:
        """The offset of the next record that will be handed over."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that was kept and the next to be written, when the reader began."""

    async def close(self) -> None: ...


class Sender(Protocol):
    """Writes records."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        """Queues a record; the future ends when all in-sync replicas have it, or with NotDelivered.

        Order per partition is the order of the calls. Raises BusFull when the local queue is full.
        """


class Bus(Sender, Protocol):
    """A connection to the log. Raises BusError kinds only (app.errors)."""

    deployment: str  # names the log itself: the same for every process on it

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Sends what is queued, then ends."""

    def healthy(self) -> str:
        """Empty when the log is within reach, else why not."""

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Makes the topics that are missing. What an existing one has too little of comes back, a
        line each.
        """

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 if there is no such topic."""

    async def group_reader(
        self, topic: str, group: str, listener: GroupListener, *, buffer: int
    ) -> GroupReader: ...

    async def log_reader(
        self, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords
    ) -> LogReader:
        """Returns once the positions are known."""

    async def ends(self, topic: str) -> dict[int, int]:
        """The next offset to be written in each partition."""

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """A group's committed offset in each partition it has committed."""
