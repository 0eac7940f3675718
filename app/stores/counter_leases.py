"""A minute's counters, of which each process takes a little in advance.

To ask Redis takes a gateway longer than all else that limits cost. So it takes up to a hundredth of
a limit at once and serves requests from that: a key is asked for some hundred times a minute,
however busy it is. What a gateway holds at a minute's end is not used; near the limit, and where a
limit is below a hundred, each request is asked for by itself, and the count is exact.
"""

from dataclasses import dataclass

from app.stores.base import Store

_SHARE = 100  # of a limit: one of so many parts is taken in advance
_KEPT_SECONDS = 120  # of a counter: corrections come to it until its minute is over


@dataclass(slots=True)
class _Lease:
    minute: int
    used: int = 0  # by all, with what each holds, when last asked
    left: int = 0  # of that this process holds so much


class Leases:
    """Raises StoreUnavailable where the counters have to be asked and do not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, _Lease] = {}

    async def take(self, name: str, minute: int, amount: int, limit: int) -> tuple[bool, int]:
        """Whether `amount` was left of the minute's `limit`, which is then used; and how much of it
        is used. 0: only to look.
        """
        lease = self._of(name, minute)
        unheard = lease.left < amount or not lease.used
        # nobody is refused by what was heard long ago
        if unheard or lease.used - lease.left + amount > limit:
            asked = amount + limit // _SHARE
            lease.used = await self._add(name, minute, asked)
            lease.left += asked
        lease.left -= amount
        used = lease.used - lease.left
        if used <= limit:
            return True, used
        return False, await self._end(name, lease, amount)

    async def correct(self, name: str, minute: int, amount: int, limit: int) -> None:
        """Adds `amount` to what was taken, as so much more was used; a negative one gives it
        back.
        """
        lease, spare = self._of(name, minute), limit // _SHARE
        lease.left -= amount
        if not 0 <= lease.left <= 2 * spare:
            surplus, lease.left = lease.left - spare, spare
            lease.used = await self._add(name, minute, -surplus)

    def _of(self, name: str, minute: int) -> _Lease:
        lease = self._leases.get(name)
        if lease is None or lease.minute != minute:
            lease = self._leases[name] = _Lease(minute)
        return lease

    async def _end(self, name: str, lease: _Lease, amount: int) -> int:
        """All is given back, so that the next who asks hears what the others have given back
        meanwhile.
        """
        back, lease.left = lease.left + amount, 0
        lease.used = await self._add(name, lease.minute, -back)
        return lease.used

    async def _add(self, name: str, minute: int, amount: int) -> int:
        return await self._store.add(f"{name}:{minute}", amount, _KEPT_SECONDS)
