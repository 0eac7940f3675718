"""A worker's heartbeats: sent every interval, and at once when something changed that others act on."""

import asyncio
import logging
from collections.abc import Callable

from app.bus.base import Bus
from app.contracts.presence import ModelCard, WorkerBeat, encode
from app.errors import BusError

logger = logging.getLogger("app.agent")


class Beats:
    """Sends what `describe` gives."""

    def __init__(self, bus: Bus, topic: str, interval: float, describe: Callable[[], WorkerBeat]) -> None:
        self._bus = bus
        self._topic = topic
        self._interval = interval
        self._describe = describe
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def soon(self) -> None:
        """Something changed: the next heartbeat does not wait for its time."""
        self._changed.set()

    async def close(self) -> None:
        """The last heartbeat, which says that this worker leaves."""
        if self._task is not None:
            self._task.cancel()
        await self._beat()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._beat()
            except Exception:
                logger.exception("a fault of ours; the next heartbeat is sent all the same")
            try:
                async with asyncio.timeout(self._interval):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        beat = self._describe()
        try:
            async with asyncio.timeout(self._interval):
                await self._bus.send(self._topic, encode(beat), key=beat.worker.encode(), headers=[("v", b"1")])
        except (BusError, TimeoutError):
            return  # the next one says it


async def announce(bus: Bus, topic: str, card: ModelCard) -> None:
    """Makes the model known, for as long as nobody forgets it. Raises BusError."""
    await bus.send(topic, encode(card), key=card.model.encode(), headers=[("v", b"1")])
