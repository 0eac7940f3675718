"""A store inside one process: for a single gateway, and for tests."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping


class MemoryStore:
    """Forgets what is past its time, and the oldest beyond `most` keys."""

    def __init__(
        self, max_keys: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._leases: dict[str, dict[str, float]] = {}  # key -> holder -> until when
        # and until when; in the order of their first additions
        self._counters: dict[str, tuple[int, float]] = {}

    async def get(self, key: str) -> bytes | None:
        value, until = self._values.get(key, (b"", 0.0))
        return value if until > self._clock() else None

    async def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        existing = await self.get(key)
        if existing is None:
            self._put(key, value, ttl_seconds)
        return existing

    async def compare_and_swap(
        self, key: str, expected_value: bytes, new_value: bytes, ttl_seconds: float | None
    ) -> bool:
        if await self.get(key) != expected_value:
            return False
        self._put(
            key,
            new_value,
            self._values[key][1] - self._clock() if ttl_seconds is None else ttl_seconds,
        )
        return True

    async def acquire_lease(
        self, key: str, holder: str, max_holders: int, ttl_seconds: float
    ) -> bool:
        now, held = self._clock(), self._leases.setdefault(key, {})
        if holder not in held and len(held) >= max_holders:
            for other in [other for other, until in held.items() if until <= now]:
                del held[other]
            if len(held) >= max_holders:
                return False
        held[holder] = now + ttl_seconds
        return True

    async def renew_leases(
        self, holders: Mapping[str, Collection[str]], ttl_seconds: float
    ) -> None:
        until = self._clock() + ttl_seconds
        for key, renewed in holders.items():
            self._leases.setdefault(key, {}).update(dict.fromkeys(renewed, until))

    async def release_lease(self, key: str, holder: str) -> None:
        held = self._leases.get(key, {})
        held.pop(holder, None)
        if not held:
            self._leases.pop(key, None)

    async def add_to_counter(self, key: str, amount: int, ttl_seconds: float) -> int:
        """On the hot path of every caller with limits, so it does no more than it must."""
        now = self._clock()
        used, until = self._counters.get(key, (0, 0.0))
        if until <= now:
            self._delete_expired_counters(now)
            self._counters.pop(key, None)
            used, until = 0, now + ttl_seconds
        self._counters[key] = (used + amount, until)
        return used + amount

    async def close(self) -> None:
        self._values.clear()
        self._counters.clear()

    def _delete_expired_counters(self, now: float) -> None:
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

    def _put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        self._values[key] = (value, self._clock() + ttl_seconds)
        self._values.move_to_end(key)
        while len(self._values) > self._max_keys:
            self._values.popitem(last=False)
