"""The places of requests that run, where a key may have only so many at once.

A place is taken for a short time and renewed while its request runs. A gateway that is killed gives
none back: they are free by themselves soon after it.
"""

import asyncio
from asyncio import Task
from collections import defaultdict
from collections.abc import Callable, Iterable

from app.errors import StoreUnavailable
from app.protocol.request_id import new_id
from app.stores.base import Store

# So long a killed gateway's places keep others out. Not shorter, because so long Redis may be away,
# or a gateway stand still, before places of requests that run are given to others.
LEASE_SECONDS = 30.0
_RENEWAL_INTERVAL_SECONDS = LEASE_SECONDS / 3


class ConcurrencyLeases:
    """`on_store_failure` hears of a store that was away when places were to be renewed."""

    def __init__(self, store: Store, on_store_failure: Callable[[StoreUnavailable], None]) -> None:
        self._store = store
        self._on_store_failure = on_store_failure
        self._key_by_holder: dict[str, str] = {}  # holder -> key
        # those that outlive this process, and are not renewed: holder -> key
        self._kept_key_by_holder: dict[str, str] = {}
        self._renewal_task: Task[None] | None = None

    async def acquire_lease(self, key: str, max_holders: int) -> str:
        """The holder of a place, to give it back by; empty if all are taken. Raises
        StoreUnavailable.
        """
        holder = new_id()
        if not await self._store.acquire_lease(key, holder, max_holders, LEASE_SECONDS):
            return ""
        self._key_by_holder[holder] = key
        if self._renewal_task is None:
            self._renewal_task = asyncio.create_task(self._renew_while_held())
        return holder

    async def keep_lease(self, holder: str, request_id: str, lease_seconds: float) -> None:
        """Keep a place for a request that goes on without its gateway, under the request's internal
        id.

        It lasts for `lease_seconds`, also if this process dies, unless any gateway gives it back
        before. Raises StoreUnavailable; then it is free after HELD_SECONDS.
        """
        key = self._key_by_holder.pop(holder)
        await self._store.renew_leases({key: [request_id]}, lease_seconds)
        self._kept_key_by_holder[request_id] = key
        await self._store.release_lease(key, holder)

    async def release_lease(self, holder: str) -> None:
        """Free a place. Raises StoreUnavailable; then it is free when its time has passed."""
        key = self._key_by_holder.pop(holder, None) or self._kept_key_by_holder.pop(holder)
        await self._store.release_lease(key, holder)

    async def release_kept_lease(self, key: str, request_id: str) -> None:
        """Free the place of a request that has ended, whichever gateway kept it. Raises
        StoreUnavailable.
        """
        await self._store.release_lease(key, request_id)

    def close(self) -> None:
        """Renews no more."""
        if self._renewal_task is not None:
            self._renewal_task.cancel()

    async def _renew_while_held(self) -> None:
        """While there are any: those that were held a turn ago too. Most requests have ended by
        then, and none pays for it.
        """
        previously_held: set[str] = set()
        try:
            while self._key_by_holder:
                await asyncio.sleep(_RENEWAL_INTERVAL_SECONDS)
                if long_held := self._group_by_key(previously_held & self._key_by_holder.keys()):
                    await self._renew_leases(long_held)
                previously_held = set(self._key_by_holder)
        finally:
            self._renewal_task = None

    async def _renew_leases(self, holders_by_key: dict[str, list[str]]) -> None:
        try:
            await self._store.renew_leases(holders_by_key, LEASE_SECONDS)
        except StoreUnavailable as error:
            self._on_store_failure(error)

    def _group_by_key(self, holders: Iterable[str]) -> dict[str, list[str]]:
        holders_by_key: defaultdict[str, list[str]] = defaultdict(list)
        for holder in holders:
            holders_by_key[self._key_by_holder[holder]].append(holder)
        return holders_by_key
