"""A minute's counters, of which each process takes a little in advance.

To ask Redis takes a gateway longer than all else that limits cost. So it takes up to a hundredth of
a limit at once and serves requests from that: a key is asked for some hundred times a minute,
however busy it is. What a gateway holds at a minute's end is not used; near the limit, and where a
limit is below a hundred, each request is asked for by itself, and the count is exact.
"""

from dataclasses import dataclass

from app.stores.base import Store

_LEASE_DIVISOR = 100  # of a limit: one of so many parts is taken in advance
_COUNTER_TTL_SECONDS = 120  # of a counter: corrections come to it until its minute is over


@dataclass(slots=True)
class _CounterLease:
    minute: int
    shared_count: int = 0  # by all, with what each holds, when last asked
    remaining: int = 0  # of that this process holds so much


class CounterLeases:
    """Raises StoreUnavailable where the counters have to be asked and do not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, _CounterLease] = {}

    async def try_consume(
        self, name: str, minute: int, amount: int, limit: int
    ) -> tuple[bool, int]:
        """Whether `amount` was left of the minute's `limit`, which is then used; and how much of it
        is used. 0: only to look.
        """
        lease = self._get_lease(name, minute)
        needs_refresh = lease.remaining < amount or not lease.shared_count
        # nobody is refused by what was heard long ago
        if needs_refresh or lease.shared_count - lease.remaining + amount > limit:
            requested = amount + limit // _LEASE_DIVISOR
            lease.shared_count = await self._add_to_counter(name, minute, requested)
            lease.remaining += requested
        lease.remaining -= amount
        used = lease.shared_count - lease.remaining
        if used <= limit:
            return True, used
        return False, await self._return_remaining(name, lease, amount)

    async def adjust_consumption(self, name: str, minute: int, amount: int, limit: int) -> None:
        """Adds `amount` to what was taken, as so much more was used; a negative one gives it
        back.
        """
        lease, spare = self._get_lease(name, minute), limit // _LEASE_DIVISOR
        lease.remaining -= amount
        if not 0 <= lease.remaining <= 2 * spare:
            surplus, lease.remaining = lease.remaining - spare, spare
            lease.shared_count = await self._add_to_counter(name, minute, -surplus)

    def _get_lease(self, name: str, minute: int) -> _CounterLease:
        lease = self._leases.get(name)
        if lease is None or lease.minute != minute:
            lease = self._leases[name] = _CounterLease(minute)
        return lease

    async def _return_remaining(self, name: str, lease: _CounterLease, amount: int) -> int:
        """All is given back, so that the next who asks hears what the others have given back
        meanwhile.
        """
        returned, lease.remaining = lease.remaining + amount, 0
        lease.shared_count = await self._add_to_counter(name, lease.minute, -returned)
        return lease.shared_count

    async def _add_to_counter(self, name: str, minute: int, amount: int) -> int:
        return await self._store.add_to_counter(f"{name}:{minute}", amount, _COUNTER_TTL_SECONDS)
