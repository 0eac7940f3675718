"""The store that the settings ask for."""

from app.config.settings import Settings
from app.errors import SettingsError
from app.stores.base import Store
from app.stores.memory import MemoryStore


def make_store(settings: Settings) -> Store:
    """Return where gateways share Idempotency-Keys and limits. Redis's driver is imported only now.
    Raises SettingsError.
    """
    if not settings.gateway.redis_url:
        return MemoryStore()
    from app.stores.redis import RedisStore

    try:
        return RedisStore(settings.gateway.redis_url, settings.bus.prefix)
    except ValueError as error:
        raise SettingsError(
            f"REDIS_URL: {error}; for example REDIS_URL=redis://localhost:6379/0"
        ) from None
