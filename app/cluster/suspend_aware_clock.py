"""A clock that stands still while its process does: who was not heard meanwhile has not fallen
silent.
"""

import asyncio
import time


class SuspendAwareClock:
    """Monotonic seconds, of which a process that was stopped, paused with its machine or starved
    has missed all but two ticks.

    By the system's clock everybody has been silent when it goes on, as what they said meanwhile is
    still on its way: a worker would take over what another is at work on.
    """

    def __init__(self, tick: float) -> None:
        self._tick = tick  # seconds
        self._ticked = time.monotonic()
        self._missed = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Again where it was started before, as whoever begins with it may have to begin anew."""
        self.close()
        self._ticked = time.monotonic()
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def now(self) -> float:
        return min(time.monotonic(), self._ticked + 2 * self._tick) - self._missed

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._tick)
            now = time.monotonic()
            self._missed += max(0.0, now - self._ticked - 2 * self._tick)
            self._ticked = now
