"""A store inside one process: for a single gateway, and for tests."""

import time
from collections import OrderedDict
from collections.abc import Callable


class MemoryStore:
    """Forgets what is past its time, and the oldest beyond `most` keys."""

    def __init__(self, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._held: dict[str, dict[str, float]] = {}  # key -> holder -> until when

    async def get(self, key: str) -> bytes | None:
        value, until = self._values.get(key, (b"", 0.0))
        return value if until > self._clock() else None

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bytes | None:
        there = await self.get(key)
        if there is None:
            self._put(key, value, ttl)
        return there

    async def swap(self, key: str, old: bytes, new: bytes, ttl: float) -> bool:
        if await self.get(key) != old:
            return False
        self._put(key, new, ttl)
        return True

    async def hold(self, key: str, holder: str, most: int, ttl: float) -> bool:
        now = self._clock()
        held = {other: until for other, until in self._held.get(key, {}).items() if until > now}
        if len(held) >= most:
            return False
        self._held[key] = {**held, holder: now + ttl}
        return True

    async def let_go(self, key: str, holder: str) -> None:
        held = self._held.get(key, {})
        held.pop(holder, None)
        if not held:
            self._held.pop(key, None)

    async def close(self) -> None:
        self._values.clear()

    def _put(self, key: str, value: bytes, ttl: float) -> None:
        self._values[key] = (value, self._clock() + ttl)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
