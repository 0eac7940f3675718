"""How many requests one worker runs at once; a suspect runs with no other beside it."""

import asyncio
from collections import deque


class Slots:
    """First come, first served. While somebody waits for a slot, `try_take` gives none."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        self._alone = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()

    def try_take(self) -> bool:
        if self._waiting or self._alone or self.used >= self.count:
            return False
        self.used += 1
        return True

    async def take(self, *, alone: bool = False) -> None:
        """Waits for a slot, or, if `alone`, until nothing else runs."""
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, alone))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting = deque(entry for entry in self._waiting if entry[0] is not granted)
                self._grant()
            else:
                self.give()
            raise

    def give(self) -> None:
        self.used -= 1
        if not self.used:
            self._alone = False
        self._grant()

    def _grant(self) -> None:
        while self._waiting and not self._alone:
            granted, alone = self._waiting[0]
            if granted.cancelled():  # its task has not run since
                self._waiting.popleft()
                continue
            if self.used >= (1 if alone else self.count):
                return
            self._waiting.popleft()
            self.used += 1
            self._alone = alone
            granted.set_result(None)
