"""How every connection to Redis is made."""

from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

_CALL_SECONDS = 2.0


def options() -> dict[str, Any]:
    """With one more try, at once, on a new connection: one that lay idle may have been cut by Redis, or by what lies between, and
    its next use would look as if Redis were away. What takes too long is not tried again."""
    once_more = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    return {"socket_timeout": _CALL_SECONDS, "socket_connect_timeout": _CALL_SECONDS, "retry": once_more}
