"""Counters in Redis, which gateways share. The library `limits` keeps them."""

from typing import Any

from limits.aio.storage import RedisStorage
from limits.errors import StorageError

from app.errors import StoreUnavailable
from app.stores.redis import options


class RedisCounts:
    """`prefix` keeps deployments apart that share one Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self._storage = RedisStorage(
            f"async+{url.replace('unix://', 'redis+unix://')}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=f"{prefix}:counts",
            **options(),
        )

    async def add(self, key: str, amount: int, seconds: int) -> int:
        """The counter with `amount` added. Raises StoreUnavailable."""
        try:
            return await self._storage.incr(key, seconds, amount)
        except (StorageError, OSError) as error:
            raise StoreUnavailable(f"Redis: {getattr(error, 'storage_error', error)}") from None

    async def close(self) -> None:
        bridge: Any = self._storage.bridge  # the library opens connections and closes none
        await bridge.get_connection().aclose()
