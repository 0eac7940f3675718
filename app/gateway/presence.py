"""What a gateway knows of the others: models, workers, gateways; and its own heartbeat."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from app.bus.base import Bus, Record, Since, Start
from app.bus.follow import Follower
from app.catalog import Catalog, Known
from app.contracts.presence import SILENT_INTERVALS, GatewayBeat, WorkerBeat, decode_beat, decode_card, encode
from app.contracts.topics import Topics
from app.errors import BusError, UndecodableRecord
from app.gateway.placement import Placement

logger = logging.getLogger("app.gateway.presence")

_RATE_WEIGHT = 0.3  # of the newest measurement in the moving average
_MOST_SKEW = 1.0  # seconds between two clocks before it is said


class Presence:
    """Keeps the catalog: cards from the models' topic, heartbeats from the workers'."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        catalog: Catalog,
        placement: Placement,
        interval: float,
        describe: Callable[[], GatewayBeat],
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._catalog = catalog
        self._placement = placement
        self._interval = interval
        self._describe = describe
        self._models = Follower(bus, topics.models, self._on_models)
        self._workers = Follower(bus, topics.workers, self._on_beats)
        self._last: dict[str, tuple[float, float]] = {}  # process -> when heard (monotonic), its interval
        self._gateways: dict[str, GatewayBeat] = {}
        self._said: set[tuple[str, str]] = set()  # worker, and what of it
        self._measured = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when every known model is in the catalog. Raises BusError."""
        await self._models.start(Start.BEGINNING)
        since = time.time() - SILENT_INTERVALS * self._interval
        await self._workers.start(Since(int(since * 1000)))

    def begin_beats(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await self._beat()
        await self._models.close()
        await self._workers.close()

    def reply_partitions(self) -> list[int]:
        """The reply partition of each other gateway that lives."""
        own = self._describe().gateway
        return [beat.partition for beat in self._gateways.values() if beat.gateway != own]

    def gateways(self) -> list[GatewayBeat]:
        """The gateways that live, this one too, as their last heartbeats say."""
        return sorted(self._gateways.values(), key=lambda beat: beat.gateway)

    async def _run(self) -> None:
        while True:
            try:
                await self._beat()
                self._bury_the_silent()
                await self._measure_queues()
            except Exception:
                logger.exception("a fault of ours; the next heartbeat is sent all the same")
            await asyncio.sleep(self._interval)

    async def _beat(self) -> None:
        beat = self._describe()
        try:
            async with asyncio.timeout(self._interval):
                await self._bus.send(self._topics.workers, encode(beat), key=beat.gateway.encode(), headers=[("v", b"1")])
        except (BusError, TimeoutError):
            return  # the next one says it

    def _on_models(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                if record.value is None:
                    self._catalog.forget((record.key or b"").decode(errors="replace"))  # not UTF-8: no model's name
                else:
                    self._catalog.learn(decode_card(record.value))
            except UndecodableRecord as error:
                logger.warning("undecodable model card at offset %d: %s", record.offset, error)

    def _on_beats(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                beat = decode_beat(record.value or b"")
            except UndecodableRecord as error:
                logger.warning("undecodable heartbeat at offset %d: %s", record.offset, error)
                continue
            if isinstance(beat, WorkerBeat):
                self._on_worker(beat, record.timestamp / 1000)
            else:
                self._on_gateway(beat)

    def _on_worker(self, beat: WorkerBeat, sent: float) -> None:
        self._last[beat.worker] = (time.monotonic(), beat.interval)
        if beat.replies != self._topics.replies:
            what = f"worker {beat.worker} writes its replies to {beat.replies}, this gateway reads {self._topics.replies}"
            self._say(beat.worker, "replies", what)
            return
        if abs(skew := beat.time - time.time()) > _MOST_SKEW and time.time() - sent < self._interval:
            self._say(beat.worker, "clock", f"the clock of worker {beat.worker} on {beat.host} is off by about {skew:.0f} s")
        self._catalog.heard(beat)
        self._placement.heard(beat.worker)

    def _on_gateway(self, beat: GatewayBeat) -> None:
        if beat.leaving:
            self._gateways.pop(beat.gateway, None)
        else:
            self._gateways[beat.gateway] = beat
            self._last[beat.gateway] = (time.monotonic(), beat.interval)
        self._count_gateways()

    def _bury_the_silent(self) -> None:
        now = time.monotonic()
        for process, (heard, interval) in list(self._last.items()):
            if now - heard > SILENT_INTERVALS * interval:
                del self._last[process]
                self._catalog.lost(process)
                self._gateways.pop(process, None)
                self._said -= {(process, "replies"), (process, "clock")}
        self._count_gateways()

    def _count_gateways(self) -> None:
        self._catalog.gateways = 1 + len(self.reply_partitions())

    async def _measure_queues(self) -> None:
        now = time.monotonic()
        for known in self._catalog.all():
            try:
                await self._measure(known, now - self._measured)
            except BusError as error:
                logger.debug("queue of %s not measured: %s", known.card.model, error)
        self._measured = now

    async def _measure(self, known: Known, seconds: float) -> None:
        """The queue: records that were in the log a measurement ago and that nobody has begun since. Transit does not count."""
        before, known.ends = known.ends, await self._bus.ends(known.card.topic)
        positions = {int(p): offset for beat in known.workers.values() for p, offset in beat.positions.items()}
        if set(before) - set(positions):
            positions = {**await self._bus.committed(known.card.topic, known.card.group), **positions}
        waited = known.queue_depth > 0
        waiting = {partition: end - positions.get(partition, 0) for partition, end in before.items()}
        known.backlog = frozenset(partition for partition, count in waiting.items() if count > 0)
        known.queue_depth = sum(waiting[partition] for partition in known.backlog)
        begun, known.started = known.started, sum(positions.values())
        serves = any(beat.ready and beat.positions for beat in known.workers.values())
        # Only while some wait is it the workers' rate, not the arrivals'; and none work slowly because none are there.
        if serves and waited and known.queue_depth and known.started >= begun > 0:
            rate = (known.started - begun) / seconds
            known.rate = rate if not known.rate else known.rate + _RATE_WEIGHT * (rate - known.rate)

    def _say(self, worker: str, about: str, what: str) -> None:
        """Once for each worker, as long as it lives."""
        if (worker, about) not in self._said:
            self._said.add((worker, about))
            logger.warning(what)
