"""A process's own heartbeats: sent every interval, and at once when something changed that others
act on.
"""

import asyncio
import logging
from collections.abc import Callable

from app.bus.base import Bus
from app.errors import BusError
from app.protocol.heartbeats import GatewayHeartbeat, WorkerHeartbeat, encode_message

logger = logging.getLogger("app.bus")


class HeartbeatSender:
    """Sends what `describe` gives, to the workers' topic."""

    def __init__(
        self,
        bus: Bus,
        topic: str,
        interval: float,
        describe: Callable[[], WorkerHeartbeat | GatewayHeartbeat],
    ) -> None:
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
        """Sends the last one, which says that this process leaves; nothing if there was none
        before.
        """
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
                await self._bus.send(
                    self._topic, encode_message(beat), key=beat.name.encode(), headers=[("v", b"1")]
                )
        except (BusError, TimeoutError):
            return  # the next one says it
