"""The contract of a store. `tests/contract/test_stores.py` and `test_store_counters.py` are the
contract in full.
"""

from collections.abc import Collection, Mapping
from typing import Protocol


class Store(Protocol):
    """Small values, leases and counters by key, each with a time to live in seconds. Raises
    StoreUnavailable.
    """

    async def get(self, key: str) -> bytes | None: ...

    async def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """None if the value is now there; else the value that was there first."""

    async def compare_and_swap(
        self, key: str, expected_value: bytes, new_value: bytes, ttl_seconds: float | None
    ) -> bool:
        """Puts `new_value` in the place of `expected_value`, if that is still there; without a time
        to live, for the time that `expected_value` had left.
        """

    async def acquire_lease(
        self, key: str, holder: str, max_holders: int, ttl_seconds: float
    ) -> bool:
        """Takes one of `max_holders` places, unless others have them all. Asked again, a holder
        still has its one place.
        """

    async def renew_leases(
        self, holders: Mapping[str, Collection[str]], ttl_seconds: float
    ) -> None:
        """By key, those whose places last for so long from now. Who has lost his meanwhile has one
        again, beyond any `max_holders`.
        """

    async def release_lease(self, key: str, holder: str) -> None:
        """The holder's place is free again, if it has one."""

    async def add_to_counter(self, key: str, amount: int, ttl_seconds: float) -> int:
        """Return the counter with `amount` added, which may be below 0. It is kept for
        `ttl_seconds` from its first addition.
        """

    async def close(self) -> None: ...
