"""What the workers of a Stack say of themselves, read from their topic."""

import asyncio

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.protocol.heartbeats import WorkerHeartbeat, decode_heartbeat


class Heartbeats:
    """The last heartbeat of each worker since the topic's beginning, by owner."""

    def __init__(self, servers: str, topic: str) -> None:
        self._servers = servers
        self._topic = topic
        self._consumer: Consumer | None = None
        self._last: dict[str, WorkerHeartbeat] = {}
        self._turn = asyncio.Lock()

    async def read(self) -> dict[str, WorkerHeartbeat]:
        async with self._turn:
            return await asyncio.to_thread(self._read)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _read(self) -> dict[str, WorkerHeartbeat]:
        if self._consumer is None:
            if not self._is_there():
                return {}
            quiet = {"log_level": 0}  # a test may take the broker away
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self._servers,
                    "group.id": "unused",
                    "fetch.wait.max.ms": 20,
                    **quiet,
                }
            )
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        for message in self._consumer.consume(1000, 0.05):
            if message.error() is None:
                beat = decode_heartbeat(message.value() or b"")
                if isinstance(beat, WorkerHeartbeat):
                    self._last[beat.worker] = beat
        return dict(self._last)

    def _is_there(self) -> bool:
        return (
            self._topic
            in AdminClient({"bootstrap.servers": self._servers}).list_topics(timeout=10).topics
        )


def delete_topics(servers: str, prefix: str) -> None:
    """Deletes every topic whose name begins so."""
    admin = AdminClient({"bootstrap.servers": servers})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for future in admin.delete_topics(names).values() if names else ():
        future.result()
