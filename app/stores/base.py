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

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """None if the value is now there; else the value that was there first."""

    async def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool:
        """Puts `new` in the place of `old`, if that is still there; without a time to live, for the
        time that `old` had left.
        """

    async def hold(self, key: str, holder: str, most: int, ttl: float) -> bool:
        """Takes one of `most` places, unless others have them all. Asked again, a holder still has
        its one place.
        """

    async def renew(self, holders: Mapping[str, Collection[str]], ttl: float) -> None:
        """By key, those whose places last for so long from now. Who has lost his meanwhile has one
        again, beyond any `most`.
        """

    async def let_go(self, key: str, holder: str) -> None:
        """The holder's place is free again, if it has one."""

    async def add(self, key: str, amount: int, ttl: float) -> int:
        """Return the counter with `amount` added, which may be below 0. It is kept for `ttl` from
        its first addition.
        """

    async def close(self) -> None: ...
