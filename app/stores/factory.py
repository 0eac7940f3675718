"""The store and the counters that the settings ask for."""

from app.config.settings import Settings
from app.errors import SettingsError
from app.stores.base import Counts, Store
from app.stores.memory import MemoryCounts, MemoryStore


def make_stores(settings: Settings) -> tuple[Store, Counts]:
    """Where gateways share Idempotency-Keys and limits; Redis's modules are imported only now. Raises SettingsError."""
    if not settings.gateway.redis_url:
        return MemoryStore(), MemoryCounts()
    from app.stores.redis import RedisStore
    from app.stores.redis_counters import RedisCounts

    where = settings.gateway.redis_url, settings.bus.prefix
    try:
        return RedisStore(*where), RedisCounts(*where)
    except ValueError as error:
        raise SettingsError(f"REDIS_URL: {error}; for example REDIS_URL=redis://localhost:6379/0") from None
