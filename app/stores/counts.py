"""Counters that gateways share: of this process, or in Redis. The library `limits` keeps them."""

from typing import Any

from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.errors import StorageError

from app.errors import StoreUnavailable

_CALL_SECONDS = 2.0


class Counts:
    """`url` empty: of this process. `prefix` keeps deployments apart that share one Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self._storage = _redis(url, prefix) if url else MemoryStorage()

    async def add(self, key: str, amount: int, seconds: int) -> int:
        """The counter with `amount` added, which may be below 0; kept for so long from its beginning. Raises StoreUnavailable."""
        try:
            return await self._storage.incr(key, seconds, amount)
        except (StorageError, OSError) as error:
            raise StoreUnavailable(f"Redis: {getattr(error, 'storage_error', error)}") from None

    async def close(self) -> None:
        if isinstance(self._storage, RedisStorage):  # the library opens connections and closes none
            bridge: Any = self._storage.bridge
            await bridge.get_connection().aclose()


def _redis(url: str, prefix: str) -> Storage:
    return RedisStorage(
        f"async+{url.replace('unix://', 'redis+unix://')}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=f"{prefix}:counts",
        socket_timeout=_CALL_SECONDS,
        socket_connect_timeout=_CALL_SECONDS,
    )
