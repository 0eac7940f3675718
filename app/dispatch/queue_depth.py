"""How many requests wait for each model, where, and how fast they are begun
(docs/decisions/0004).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from app.bus.base import Bus
from app.cluster.model_registry import ModelRegistry, ModelState
from app.dispatch.abandoned_requests import AbandonedRequests
from app.errors import BusError
from app.protocol.heartbeats import GatewayHeartbeat

logger = logging.getLogger("app.dispatch.queue_depth")

_RATE_WEIGHT = 0.3  # of the newest measurement in the moving average


class QueueDepthMonitor:
    """Measures each interval what the catalog says of queues. `others`: the other gateways that
    live.
    """

    def __init__(
        self,
        bus: Bus,
        catalog: ModelRegistry,
        withdrawn: AbandonedRequests,
        others: Callable[[], Iterable[GatewayHeartbeat]],
        interval: float,
    ) -> None:
        self._bus = bus
        self._catalog = catalog
        self._withdrawn = withdrawn
        self._others = others
        self._interval = interval
        self._measured = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._measure_all()
            except Exception:
                logger.exception("a fault of ours; the queues are measured again all the same")
            await asyncio.sleep(self._interval)

    async def _measure_all(self) -> None:
        now = time.monotonic()
        for known in self._catalog.all():
            try:
                await self._measure(known, now - self._measured)
            except BusError as error:
                logger.debug("queue of %s not measured: %s", known.card.model, error)
        self._measured = now

    async def _measure(self, known: ModelState, seconds: float) -> None:
        """The queue: records that were in the log a measurement ago and that nobody has begun
        since. Transit does not count, nor what has been ended while it waited.
        """
        before, known.ends = known.ends, await self._bus.ends(known.card.topic)
        positions = {
            int(p): offset
            for beat in known.workers.values()
            for p, offset in beat.positions.items()
        }
        if set(before) - set(positions):
            positions = {
                **await self._bus.committed(known.card.topic, known.card.group),
                **positions,
            }
        waited = known.queue_depth > 0
        waiting = {
            partition: end - positions.get(partition, 0) for partition, end in before.items()
        }
        known.backlog = frozenset(partition for partition, count in waiting.items() if count > 0)
        self._withdrawn.passed(known.card.model, positions)
        known.queue_depth = max(
            0,
            sum(waiting[partition] for partition in known.backlog) - self._ended(known.card.model),
        )
        begun, known.started = known.started, sum(positions.values())
        serves = any(beat.ready and beat.positions for beat in known.workers.values())
        # Only while some wait is it the workers' rate, not the arrivals'; and none work slowly
        # because none are there.
        if serves and waited and known.queue_depth and known.started >= begun > 0:
            rate = (known.started - begun) / seconds
            known.rate = rate if not known.rate else known.rate + _RATE_WEIGHT * (rate - known.rate)

    def _ended(self, model: str) -> int:
        """Requests in the queue that nobody waits for, as far as the gateways that live have ended
        them.
        """
        return self._withdrawn.counts().get(model, 0) + sum(
            beat.withdrawn.get(model, 0) for beat in self._others()
        )
