"""What every Kafka client here shares: properties, a quiet logger, errors in our own words, the
admin client.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from app.bus.base import TopicSpec, shortfalls
from app.bus.kafka.security import security_properties
from app.config.bus_settings import BusSettings
from app.errors import BusError
from app.telemetry.logs import Throttle

Answer = TypeVar("Answer")

# between two lines of a kind; librdkafka writes twenty a second while a broker is away
_LOG_SECONDS = 10.0
_AGAIN = 0.05  # seconds
_TIMEOUT = 10.0  # seconds for one admin call
# KIP-848: a group may have its own session timeout where the broker's bounds allow it.
_GROUP_CONFIG = {
    "consumer.session.timeout.ms": "3000",
    "consumer.heartbeat.interval.ms": "250",
    "consumer.assignment.interval.ms": "0",
}
_LONGEST_SESSION_MS = 10_000
_DAY_MS = 86_400_000

logger = logging.getLogger("app.bus.kafka")
client_logger = logging.getLogger("app.bus.librdkafka")
client_logger.addFilter(Throttle(_LOG_SECONDS))


def properties(settings: BusSettings, **ours: Any) -> dict[str, Any]:
    """librdkafka's properties: what all clients share, then `ours`, then the user's, which win."""
    return {
        "bootstrap.servers": settings.servers,
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "log.connection.close": False,
        "logger": client_logger,
        **security_properties(settings),
        **ours,
        **settings.properties,
    }


def reason(error: KafkaError | KafkaException | Exception) -> str:
    """A Kafka error in a few words."""
    cause = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return str(cause.str() if isinstance(cause, KafkaError) else cause) or repr(cause)


class KafkaAdmin:
    """Blocking admin calls, for use in a thread. Each raises BusError."""

    def __init__(self, settings: BusSettings, on_error: Callable[[KafkaError], None]) -> None:
        self._settings = settings
        self._client = AdminClient(properties(settings, **{"error_cb": on_error}))
        self._askers: dict[str, Consumer] = {}  # by group; they join nothing

    def close(self) -> None:
        for asker in self._askers.values():
            asker.close()

    def cluster(self) -> str:
        """The cluster's id; waits for a broker."""
        return str(self._metadata("").cluster_id)

    def partitions(self, topic: str) -> int:
        found = self._metadata(topic).topics.get(topic)
        return len(found.partitions) if found is not None and found.error is None else 0

    def ensure(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Makes what is missing; says what an existing topic has otherwise."""
        there = self._metadata("").topics
        missing = [spec for spec in specs if spec.name not in there]
        new = [
            NewTopic(
                spec.name, spec.partitions, self._settings.replication_factor, config=spec.config
            )
            for spec in missing
        ]
        for topic, future in (
            self._client.create_topics(new, operation_timeout=_TIMEOUT) if new else {}
        ).items():
            self._made(topic, future)
        for spec in missing:
            self._await(spec.name)
        existing = [spec for spec in specs if spec not in missing]
        return [
            line
            for spec in existing
            for line in shortfalls(spec, self._config(ResourceType.TOPIC, spec.name))
        ]

    def ends(self, topic: str, partitions: int) -> dict[int, int]:
        wanted = {
            TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)
        }
        if not wanted:
            return {}

        def ask() -> dict[int, int]:
            futures = self._client.list_offsets(wanted, request_timeout=_TIMEOUT)
            return {place.partition: _result(future).offset for place, future in futures.items()}

        return patiently(ask)

    def committed(self, topic: str, group: str, partitions: int) -> dict[int, int]:
        """A consumer asks: the admin client's own call ends the process (SIGSEGV) where the group's
        coordinator is not there yet, as after a broker's restart
        (https://github.com/confluentinc/librdkafka/issues/5040).
        """
        places = [TopicPartition(topic, number) for number in range(partitions)]
        if not places:
            return {}
        if group not in self._askers:
            # Never polled, and silent, as nobody serves its log: what it would say the others say
            # too.
            own = {
                "group.id": group,
                "enable.auto.commit": False,
                "log_level": 0,
                "max.poll.interval.ms": _DAY_MS,
            }
            self._askers[group] = patiently(lambda: Consumer({**properties(self._settings), **own}))
        asker = self._askers[group]
        found = patiently(lambda: asker.committed(places, timeout=_TIMEOUT))
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def speaks_consumer_protocol(self) -> bool:
        """Whether the broker has KIP-848 with a session short enough that a dead worker is noticed
        in time.
        """
        broker = str(min(self._metadata("").brokers))
        found = self._config(ResourceType.BROKER, broker)
        protocols = found.get("group.coordinator.rebalance.protocols", "classic,consumer")
        session = int(found.get("group.consumer.session.timeout.ms", "0"))
        return "consumer" in protocols and 0 < session <= _LONGEST_SESSION_MS

    def shorten_session(self, group: str) -> None:
        """Sets the group's own session to 3 s where the broker allows it; else the broker's default
        stands.
        """
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in _GROUP_CONFIG.items()
        ]
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
        try:
            patiently(lambda: _result(self._client.incremental_alter_configs([resource])[resource]))
        except BusError as error:
            logger.info("group %s keeps the broker's session timeout: %s", group, error)

    def _metadata(self, topic: str) -> Any:
        where = {"topic": topic} if topic else {}
        return patiently(lambda: self._client.list_topics(timeout=_TIMEOUT, **where))

    def _made(self, topic: str, future: "ThreadFuture[None]") -> None:
        try:
            future.result(_TIMEOUT)
            logger.info("made topic %s", topic)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was first
                raise BusError(f"topic {topic}: {reason(error)}") from None
        except TimeoutError:
            raise BusError(f"topic {topic}: no answer from the broker in time") from None

    def _await(self, topic: str) -> None:
        """A topic that was made a moment ago is not in every broker's metadata yet; nor has each
        partition its leader then.
        """
        end = time.monotonic() + _TIMEOUT
        while not (partitions := self.partitions(topic)):
            if time.monotonic() > end:
                raise BusError(f"topic {topic} was made, and no broker knows it")
            time.sleep(_AGAIN)
        self.ends(topic, partitions)

    def _config(self, kind: ResourceType, name: str) -> dict[str, str]:
        resource = ConfigResource(kind, name)
        found = patiently(lambda: _result(self._client.describe_configs([resource])[resource]))
        return {key: entry.value for key, entry in found.items()}


def _result(future: "ThreadFuture[Any]") -> Any:
    return future.result(_TIMEOUT)


# Retriable by the protocol (https://kafka.apache.org/protocol#protocol_error_codes). KIP-320: who
# knows a newer leader than the broker that it asks, or an older one. KIP-207: a leader that does
# not know its partition's end yet.
_PASSING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Asks again while the broker cannot say yet (a topic was made, a leader elected a moment ago).
    Blocking; raises BusError.
    """
    end = time.monotonic() + _TIMEOUT
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() > end:
                raise BusError(reason(error)) from None
        except TimeoutError:
            raise BusError("no answer from the broker in time") from None
        time.sleep(_AGAIN)
