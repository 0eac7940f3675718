"""How many requests one worker runs at once; a suspect runs with no other beside it."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

_Queue: TypeAlias = "deque[tuple[asyncio.Future[None], bool]]"  # who waits, and whether alone


class ConcurrencyLimiter:
    """First come, first served, in each of two queues that take turns: the crowd's, and the one for
    all others.

    While somebody waits for a slot, `try_take` gives none. Then `newcomer` is asked whenever it is
    the others' turn and none of them waits here: it begins something new of theirs in the slot, or
    returns False.
    """

    def __init__(self, count: int, newcomer: Callable[[], bool] = lambda: False) -> None:
        self.count = count
        self.used = 0
        self._newcomer = newcomer
        self._alone = False
        self._others: _Queue = deque()
        self._crowd: _Queue = deque()
        self._crowds_turn = False

    def try_take(self) -> bool:
        if self._alone or self.used >= self.count or self._others or self._crowd:
            return False
        self.used += 1
        return True

    async def take(self, *, alone: bool = False, crowd: bool = False) -> None:
        """Waits for a slot, or, if `alone`, until nothing else runs."""
        granted = asyncio.get_running_loop().create_future()
        queue = self._crowd if crowd else self._others
        queue.append((granted, alone))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                with suppress(ValueError):  # it may be out of it already
                    queue.remove((granted, alone))
                self._grant()
            else:
                self.give()
            raise

    def give(self) -> None:
        self.used -= 1
        if not self.used:
            self._alone = False
        if self._others or self._crowd:
            self._grant()

    def _grant(self) -> None:
        while (self._others or self._crowd) and not self._alone:
            crowd = self._next()
            queue = self._crowd if crowd else self._others
            granted, alone = queue[0]
            if granted.cancelled():  # its task has not run since
                queue.popleft()
                continue
            if self.used >= (1 if alone else self.count):
                return
            self.used += 1
            if crowd and not alone and not self._crowds_turn and self._newcomer():
                self._crowds_turn = True
                continue
            queue.popleft()
            self._alone = alone
            self._crowds_turn = not crowd
            granted.set_result(None)

    def _next(self) -> bool:
        """Whether the crowd's queue is next. A suspect at a head is: it would never be alone if
        others went on coming.
        """
        if not (self._others and self._crowd):
            return bool(self._crowd)
        (_, other_alone), (_, crowd_alone) = self._others[0], self._crowd[0]
        return crowd_alone if other_alone or crowd_alone else self._crowds_turn
