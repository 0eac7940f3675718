"""The bus's contract suite runs over every back end: a test asks `bus_factory` for a bus and knows
no more of it.
"""

import asyncio
import os
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
import uvloop

from app.bus.base import At, Bus, GroupReader, LogReader, Record, Start, TopicSpec
from app.config.bus_settings import BusSettings
from app.config.settings import load_settings

WAIT_SECONDS = 30.0  # for what must come; a broker on a busy machine takes its time
SESSION_MS = 30_000  # after which a broker gives up a silent member of a group


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Engines are tried on the workers' own loop as well: its sockets and its TLS are not
    asyncio's.
    """
    plain = {"asyncio": asyncio.new_event_loop}
    return {**plain, "uvloop": uvloop.new_event_loop} if "engine" in item.path.name else plain


class BusFactory:
    """Makes buses on one back end. `poll_interval`: seconds after which a silent member loses its
    group; 0: never.
    """

    poll_interval = 0.0

    def __init__(self) -> None:
        self.made: list[Bus] = []
        self.topics: list[str] = []

    async def __call__(
        self, *, small_queue: bool = False, short_poll_interval: bool = False
    ) -> Bus:
        bus = self.build(small_queue, short_poll_interval)
        await bus.start()
        self.made.append(bus)
        return bus

    def build(self, small_queue: bool, short_poll_interval: bool) -> Bus:
        from app.bus.memory.bus import MemoryBus

        settings = load_settings({}).bus
        return MemoryBus(settings, budget=64 * 1024) if small_queue else MemoryBus(settings)

    async def close(self) -> None:
        for bus in self.made:
            await bus.close()


class KafkaFactory(BusFactory):
    """Its buses bear a machine that stands still for seconds: no group loses a member, nothing is
    left at a close.
    """

    poll_interval = 2.0

    def __init__(self, protocol: str) -> None:
        from app.bus.kafka import client as kafka_client
        from app.bus.kafka import consumer_thread as kafka_thread
        from app.bus.kafka import producer as kafka_producer

        super().__init__()
        self.protocol = protocol
        self.servers = os.environ.get("BOOTSTRAP_SERVERS") or "127.0.0.1:9093"
        self.patches = pytest.MonkeyPatch()
        self.patches.setitem(
            kafka_client._GROUP_CONFIG, "consumer.session.timeout.ms", str(SESSION_MS)
        )
        self.patches.setattr(kafka_thread, "_CLOSE_SECONDS", WAIT_SECONDS)
        self.patches.setattr(kafka_producer, "_FLUSH_SECONDS", WAIT_SECONDS)

    def build(self, small_queue: bool, short_poll_interval: bool) -> Bus:
        from app.bus.kafka.bus import KafkaBus

        # how long a send waits for a topic that is not there
        properties = ["topic.metadata.propagation.max.ms=1000"]
        if small_queue:
            properties.append("queue.buffering.max.messages=20")
        session = SESSION_MS
        if short_poll_interval:
            session = int(self.poll_interval * 1000)  # never longer than what follows
            properties.append(f"max.poll.interval.ms={session}")
        if self.protocol == "classic":  # the other has its session timeout from the broker
            properties.append(f"session.timeout.ms={session}")
        return KafkaBus(self.settings(";".join(properties)))

    def settings(self, properties: str) -> BusSettings:
        environment = {
            "BOOTSTRAP_SERVERS": self.servers,
            "KAFKA_GROUP_PROTOCOL": self.protocol,
            "KAFKA_PROPERTIES": properties,
        }
        return load_settings(environment).bus

    async def close(self) -> None:
        from confluent_kafka.admin import AdminClient

        await super().close()
        self.patches.undo()
        if self.topics:
            admin = AdminClient({"bootstrap.servers": self.servers})
            await asyncio.gather(
                *map(asyncio.wrap_future, admin.delete_topics(self.topics).values())
            )


FACTORIES: dict[str, Callable[[], BusFactory]] = {
    "memory": BusFactory,
    "kafka-consumer": lambda: KafkaFactory("consumer"),
    "kafka-classic": lambda: KafkaFactory("classic"),
}


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kafka-consumer", marks=pytest.mark.servers),
        pytest.param("kafka-classic", marks=pytest.mark.servers),
    ]
)
async def bus_factory(request: pytest.FixtureRequest) -> AsyncIterator[BusFactory]:
    factory = FACTORIES[request.param]()
    yield factory
    await factory.close()


@pytest.fixture
async def kafka_factory() -> AsyncIterator[BusFactory]:
    """In the place of bus_factory where only Kafka will do: new_topic notes its topics there."""
    factory = KafkaFactory("consumer")
    yield factory
    await factory.close()


@pytest.fixture
async def bus(bus_factory: BusFactory) -> Bus:
    return await bus_factory()


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits for a condition; fails if it does not come."""

    async def wait(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "what the test waits for did not come"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def new_topic(bus_factory: BusFactory) -> Callable[..., Awaitable[str]]:
    """Makes a topic of a name of its own on a bus."""

    async def make(bus: Bus, partitions: int = 1, config: dict[str, str] | None = None) -> str:
        name = f"test-{uuid.uuid4().hex}"
        bus_factory.topics.append(name)
        assert await bus.ensure_topics([TopicSpec(name, partitions, config or {})]) == []
        return name

    return make


@pytest.fixture
def patient_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of Redis that takes long is waited for; a refusal is still one at once."""
    monkeypatch.setattr("app.stores.redis._CALL_TIMEOUT_SECONDS", WAIT_SECONDS)


class Member:
    """A group's listener that notes what it is told; with `take` it makes room at once, with
    `commit` it commits at once.
    """

    def __init__(self, take: bool, commit: bool) -> None:
        self.reader: GroupReader
        self.take = take
        self.commit = commit
        self.records: list[Record] = []
        self.assignments: list = []
        self.revoked: list[int] = []
        self.owned: set[int] = set()

    def on_assigned(self, assigned) -> None:
        self.assignments += assigned
        self.owned |= {assignment.partition for assignment in assigned}

    def on_revoked(self, partitions) -> None:
        self.revoked += partitions
        self.owned -= set(partitions)

    def on_records(self, records) -> None:
        self.records += records
        for record in records:
            if self.take:
                self.reader.took(record.partition)
            if self.commit:
                self.reader.commit(record.partition, record.offset + 1)

    def offsets(self) -> dict[int, list[int]]:
        found = defaultdict(list)
        for record in self.records:
            found[record.partition].append(record.offset)
        return dict(found)

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


@pytest.fixture
async def join() -> AsyncIterator[Callable[..., Awaitable[Member]]]:
    """Joins a group; what is still a member at the end leaves."""
    joined: list[Member] = []

    async def join_(
        bus: Bus, topic: str, group: str, *, buffer=100, take=True, commit=True
    ) -> Member:
        member = Member(take, commit)
        member.reader = await bus.group_reader(topic, group, member, buffer=buffer)
        joined.append(member)
        return member

    yield join_
    for member in joined:
        await member.reader.close()


class Log:
    """What a log reader was handed."""

    def __init__(self) -> None:
        self.reader: LogReader
        self.records: list[Record] = []

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


@pytest.fixture
async def follow() -> AsyncIterator[Callable[..., Awaitable[Log]]]:
    """Opens a log reader; what is still open at the end is closed."""
    opened: list[Log] = []

    async def open_(
        bus: Bus, topic: str, begin: Start | At = Start.BEGINNING, partitions=(0,)
    ) -> Log:
        log = Log()
        log.reader = await bus.log_reader(topic, partitions, begin, log.records.extend)
        opened.append(log)
        return log

    yield open_
    for log in opened:
        await log.reader.close()


@pytest.fixture
def read_all(follow, until) -> Callable[..., Awaitable[list[Record]]]:
    """What lies in a topic's first partition at this moment."""

    async def read(bus: Bus, topic: str) -> list[Record]:
        log = await follow(bus, topic)
        _, end = log.reader.bounds(0)
        await until(lambda: log.reader.position(0) >= end)
        return log.records

    return read
