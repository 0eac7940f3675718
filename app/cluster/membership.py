"""What a gateway knows of the others: models, workers, gateways; and its own heartbeat."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from app.bus.base import Bus, Record, Since, Start
from app.bus.topic_follower import TopicFollower
from app.cluster.heartbeat_sender import HeartbeatSender
from app.cluster.model_registry import ModelRegistry
from app.cluster.suspend_aware_clock import SuspendAwareClock
from app.errors import UndecodableRecord
from app.protocol.heartbeats import (
    HEARTBEAT_TIMEOUT_INTERVALS,
    GatewayHeartbeat,
    WorkerHeartbeat,
    decode_heartbeat,
    decode_registration,
)
from app.protocol.topics import Topics

logger = logging.getLogger("app.cluster.membership")

_MOST_SKEW = 1.0  # seconds between two clocks before it is said
_WATCH_SECONDS = 10.0  # after a look at the live view, which looks again every two


class Membership:
    """Keeps the catalog: cards from the models' topic, heartbeats from the workers'.

    `own`: this gateway's name. `worker_heard` is called with the name of each worker that sends a
    heartbeat.
    """

    def __init__(
        self,
        own: str,
        bus: Bus,
        topics: Topics,
        catalog: ModelRegistry,
        interval: float,
        describe: Callable[[], GatewayHeartbeat],
        worker_heard: Callable[[str], None],
    ) -> None:
        self._own = own
        self._topics = topics
        self._catalog = catalog
        self._worker_heard = worker_heard
        self._interval = interval
        self._models = TopicFollower(bus, topics.models, self._on_models)
        self._workers = TopicFollower(bus, topics.workers, self._on_beats)
        self._clock = SuspendAwareClock(interval / 2)
        # process -> when, by our clock, it is taken for dead unless it is heard again
        self._silent_at: dict[str, float] = {}
        self._gateways: dict[str, GatewayHeartbeat] = {}
        self._said: set[tuple[str, str]] = set()  # worker, and what of it
        self._watched_until = 0.0  # monotonic
        self._beats = HeartbeatSender(bus, topics.workers, interval, describe)
        self._burying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when every known model is in the catalog. Raises BusError."""
        self._clock.start()
        await self._models.start(Start.BEGINNING)
        since = time.time() - HEARTBEAT_TIMEOUT_INTERVALS * self._interval
        await self._workers.start(Since(int(since * 1000)))

    def begin_beats(self) -> None:
        self._beats.start()
        self._burying = asyncio.create_task(self._bury())

    async def close(self) -> None:
        if self._burying is not None:
            self._burying.cancel()
        self._clock.close()
        await self._beats.close()
        await self._models.close()
        await self._workers.close()

    def reply_partitions(self) -> list[int]:
        """The reply partition of each other gateway that lives."""
        return [beat.partition for beat in self.others()]

    def others(self) -> list[GatewayHeartbeat]:
        """The other gateways that live, as their last heartbeats say."""
        return [beat for beat in self._gateways.values() if beat.gateway != self._own]

    def gateways(self) -> list[GatewayHeartbeat]:
        """The gateways that live, this one too, as their last heartbeats say."""
        return sorted(self._gateways.values(), key=lambda beat: beat.gateway)

    async def _bury(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._bury_the_silent()

    def _on_models(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                if record.value is None:
                    # not UTF-8: no model's name
                    self._catalog.forget((record.key or b"").decode(errors="replace"))
                else:
                    self._catalog.learn(decode_registration(record.value))
            except UndecodableRecord as error:
                logger.warning("undecodable model card at offset %d: %s", record.offset, error)

    def _on_beats(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                beat = decode_heartbeat(record.value or b"")
            except UndecodableRecord as error:
                logger.warning("undecodable heartbeat at offset %d: %s", record.offset, error)
                continue
            if isinstance(beat, WorkerHeartbeat):
                self._on_worker(beat, record.timestamp / 1000)
            else:
                self._on_gateway(beat)

    def _on_worker(self, beat: WorkerHeartbeat, sent: float) -> None:
        self._silent_at[beat.worker] = self._clock.now() + beat.heartbeat_timeout_seconds
        if beat.replies != self._topics.replies:
            what = (
                f"worker {beat.worker} writes its replies to {beat.replies}, this gateway reads "
                f"{self._topics.replies}"
            )
            self._say(beat.worker, "replies", what)
            return
        if (
            abs(skew := beat.time - time.time()) > _MOST_SKEW
            and time.time() - sent < self._interval
        ):
            self._say(
                beat.worker,
                "clock",
                f"the clock of worker {beat.worker} on {beat.host} is off by about {skew:.0f} s",
            )
        self._catalog.heard(beat)
        self._worker_heard(beat.worker)

    def watch(self) -> None:
        """An operator looks at this gateway, and presumably goes on for a while: the others hear of
        it at once.
        """
        begins, self._watched_until = not self.watched, time.monotonic() + _WATCH_SECONDS
        if begins:
            self._beats.soon()

    @property
    def watched(self) -> bool:
        return time.monotonic() < self._watched_until

    def _on_gateway(self, beat: GatewayHeartbeat) -> None:
        before = self._gateways.get(beat.gateway)
        if beat.watched and not (before and before.watched) and beat.gateway != self._own:
            self._beats.soon()  # who looks there sees what is here
        if beat.leaving:
            self._gateways.pop(beat.gateway, None)
        else:
            self._gateways[beat.gateway] = beat
            self._silent_at[beat.gateway] = self._clock.now() + beat.heartbeat_timeout_seconds
        self._count_gateways()

    def _bury_the_silent(self) -> None:
        now = self._clock.now()
        for process, silent_at in list(self._silent_at.items()):
            if silent_at < now:
                del self._silent_at[process]
                self._catalog.lost(process)
                self._gateways.pop(process, None)
                self._said -= {(process, "replies"), (process, "clock")}
        self._count_gateways()

    def _count_gateways(self) -> None:
        self._catalog.gateways = 1 + len(self.reply_partitions())

    def _say(self, worker: str, about: str, what: str) -> None:
        """Once for each worker, as long as it lives."""
        if (worker, about) not in self._said:
            self._said.add((worker, about))
            logger.warning(what)
