"""A store inside one process: for a single gateway, and for tests."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping


class MemoryStore:
    """Forgets what is past its time, and the oldest beyond `most` keys."""

    def __init__(self, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._held: dict[str, dict[str, float]] = {}  # key -> holder -> until when
        # and until when; in the order of their first additions
        self._counters: dict[str, tuple[int, float]] = {}

    async def get(self, key: str) -> bytes | None:
        value, until = self._values.get(key, (b"", 0.0))
        return value if until > self._clock() else None

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bytes | None:
        there = await self.get(key)
        if there is None:
            self._put(key, value, ttl)
        return there

    async def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool:
        if await self.get(key) != old:
            return False
        self._put(key, new, self._values[key][1] - self._clock() if ttl is None else ttl)
        return True

    async def hold(self, key: str, holder: str, most: int, ttl: float) -> bool:
        now, held = self._clock(), self._held.setdefault(key, {})
        if holder not in held and len(held) >= most:
            for other in [other for other, until in held.items() if until <= now]:
                del held[other]
            if len(held) >= most:
                return False
        held[holder] = now + ttl
        return True

    async def renew(self, holders: Mapping[str, Collection[str]], ttl: float) -> None:
        until = self._clock() + ttl
        for key, renewed in holders.items():
            self._held.setdefault(key, {}).update(dict.fromkeys(renewed, until))

    async def let_go(self, key: str, holder: str) -> None:
        held = self._held.get(key, {})
        held.pop(holder, None)
        if not held:
            self._held.pop(key, None)

    async def add(self, key: str, amount: int, ttl: float) -> int:
        """On the hot path of every caller with limits, so it does no more than it must."""
        now = self._clock()
        used, until = self._counters.get(key, (0, 0.0))
        if until <= now:
            self._delete_counters_until(now)
            self._counters.pop(key, None)
            used, until = 0, now + ttl
        self._counters[key] = (used + amount, until)
        return used + amount

    async def close(self) -> None:
        self._values.clear()
        self._counters.clear()

    def _delete_counters_until(self, now: float) -> None:
        """Delete the oldest that are past their time: as many as began since the last call,
        mostly.
        """
        past = []
        for key, (_, until) in self._counters.items():
            if until > now:
                break
            past.append(key)
        for key in past:
            del self._counters[key]

    def _put(self, key: str, value: bytes, ttl: float) -> None:
        self._values[key] = (value, self._clock() + ttl)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
