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
HELD_SECONDS = 30.0
_RENEWAL_SECONDS = HELD_SECONDS / 3


class ConcurrencyLeases:
    """`failed` hears of a store that was away when places were to be renewed."""

    def __init__(self, store: Store, failed: Callable[[StoreUnavailable], None]) -> None:
        self._store = store
        self._failed = failed
        self._held: dict[str, str] = {}  # holder -> key
        # those that outlive this process, and are not renewed: holder -> key
        self._kept: dict[str, str] = {}
        self._renewing: Task[None] | None = None

    async def take(self, key: str, most: int) -> str:
        """The holder of a place, to give it back by; empty if all are taken. Raises
        StoreUnavailable.
        """
        holder = new_id()
        if not await self._store.acquire_lease(key, holder, most, HELD_SECONDS):
            return ""
        self._held[holder] = key
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        return holder

    async def keep(self, holder: str, request_id: str, seconds: float) -> None:
        """Keep a place for a request that goes on without its gateway, under the request's internal
        id.

        It lasts for `seconds`, also if this process dies, unless any gateway gives it back before.
        Raises StoreUnavailable; then it is free after HELD_SECONDS.
        """
        key = self._held.pop(holder)
        await self._store.renew_leases({key: [request_id]}, seconds)
        self._kept[request_id] = key
        await self._store.release_lease(key, holder)

    async def give_back(self, holder: str) -> None:
        """Free a place. Raises StoreUnavailable; then it is free when its time has passed."""
        key = self._held.pop(holder, None) or self._kept.pop(holder)
        await self._store.release_lease(key, holder)

    async def give_back_kept(self, key: str, request_id: str) -> None:
        """Free the place of a request that has ended, whichever gateway kept it. Raises
        StoreUnavailable.
        """
        await self._store.release_lease(key, request_id)

    def close(self) -> None:
        """Renews no more."""
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self) -> None:
        """While there are any: those that were held a turn ago too. Most requests have ended by
        then, and none pays for it.
        """
        before: set[str] = set()
        try:
            while self._held:
                await asyncio.sleep(_RENEWAL_SECONDS)
                if long := self._by_key(before & self._held.keys()):
                    await self._renew_once(long)
                before = set(self._held)
        finally:
            self._renewing = None

    async def _renew_once(self, holders: dict[str, list[str]]) -> None:
        try:
            await self._store.renew_leases(holders, HELD_SECONDS)
        except StoreUnavailable as error:
            self._failed(error)

    def _by_key(self, holders: Iterable[str]) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for holder in holders:
            found[self._held[holder]].append(holder)
        return found
