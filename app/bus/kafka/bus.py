"""The bus on Kafka: composes the producer, the readers and the admin client behind the contract of
`app.bus.base`.
"""

import asyncio
from asyncio import Future
from collections.abc import Sequence

from app.bus.base import From, GroupListener, GroupReader, LogReader, OnRecords, Place, TopicSpec
from app.bus.kafka.client import KafkaAdmin, logger
from app.bus.kafka.group import KafkaGroupReader
from app.bus.kafka.producer import KafkaProducer
from app.bus.kafka.reader import KafkaLogReader
from app.bus.kafka.security import check_security
from app.config.bus_settings import BusSettings
from app.errors import BusError
from app.protocol.records import Headers

_RETRY_SECONDS = 1.0


class KafkaBus:
    """One producer for the process, one thread per reader."""

    def __init__(self, settings: BusSettings) -> None:
        """Raises SettingsError for security settings that no client can be made with."""
        check_security(settings)
        self._settings = settings
        self._protocol = settings.group_protocol
        self._producer: KafkaProducer
        self._admin: KafkaAdmin
        self._trouble = "the bus is not started"
        self.deployment = ""

    async def start(self) -> None:
        """Connects; waits for as long as no broker answers."""
        self._producer = KafkaProducer(self._settings)
        self._admin = KafkaAdmin(self._settings, self._producer.on_error)
        self._trouble = ""
        cluster = await self._when_a_broker_answers()
        self.deployment = f"{cluster}/{self._settings.prefix}"
        if self._protocol == "auto":
            self._protocol = await self._best_protocol()
        logger.info("connected to Kafka cluster %s, group protocol %s", cluster, self._protocol)

    async def _best_protocol(self) -> str:
        try:
            modern = await asyncio.to_thread(self._admin.speaks_consumer_protocol)
        except BusError as error:  # many a hosted broker does not tell its configuration
            logger.warning(
                "the broker does not say what it can, so the classic protocol is used: %s", error
            )
            modern = False
        return "consumer" if modern else "classic"

    async def _when_a_broker_answers(self) -> str:
        while True:
            try:
                return await asyncio.to_thread(self._admin.cluster)
            except BusError as error:
                logger.warning(
                    "no broker answers at %s: %s",
                    self._settings.servers,
                    self._producer.refusal or error,
                )
                await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        if self._trouble:
            return
        self._trouble = "the bus is closed"
        await self._producer.close()
        await asyncio.to_thread(self._admin.close)

    def healthy(self) -> str:
        return self._trouble or self._producer.trouble()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        return self._producer.send(topic, value, key, headers, partition)

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        return await asyncio.to_thread(self._admin.ensure, specs)

    async def partitions(self, topic: str) -> int:
        return await asyncio.to_thread(self._admin.partitions, topic)

    async def group_reader(
        self, topic: str, group: str, listener: GroupListener, *, buffer: int
    ) -> GroupReader:
        if self._protocol == "consumer":
            await asyncio.to_thread(self._admin.shorten_session, group)
        reader = KafkaGroupReader(
            self._settings, self._protocol, topic, group, listener, buffer=buffer
        )
        await reader.start()
        return reader

    async def log_reader(
        self, topic: str, partitions: Sequence[int], begin: From, on_records: OnRecords
    ) -> LogReader:
        reader = KafkaLogReader(self._settings, topic, partitions, begin, on_records)
        await reader.start()
        return reader

    async def ends(self, topic: str) -> dict[int, int]:
        return await asyncio.to_thread(
            lambda: self._admin.ends(topic, self._admin.partitions(topic))
        )

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        return await asyncio.to_thread(
            lambda: self._admin.committed(topic, group, self._admin.partitions(topic))
        )
