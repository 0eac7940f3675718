"""A store in Redis, shared by all gateways that are given the same REDIS_URL."""

from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.errors import StoreUnavailable

Answer = TypeVar("Answer")

_CALL_SECONDS = 2.0
_SWAP = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return 1
"""
# A sorted set of holders by the time when their places are free again, by Redis's own clock, in milliseconds.
_HOLD = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[3])
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('zadd', KEYS[1], now + ttl, ARGV[1])
if redis.call('pttl', KEYS[1]) < ttl then redis.call('pexpire', KEYS[1], ttl) end
return 1
"""


class RedisStore:
    """`prefix` keeps deployments apart that share one Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = Redis.from_url(url, socket_timeout=_CALL_SECONDS, socket_connect_timeout=_CALL_SECONDS)
        self._prefix = prefix

    async def get(self, key: str) -> bytes | None:
        value: Any = await _asked(self._redis.get(self._name(key)))
        return bytes(value) if value is not None else None

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bytes | None:
        there: Any = await _asked(self._redis.set(self._name(key), value, nx=True, get=True, px=_milliseconds(ttl)))
        return bytes(there) if there is not None else None

    async def swap(self, key: str, old: bytes, new: bytes, ttl: float) -> bool:
        done: Any = self._redis.eval(_SWAP, 1, self._name(key), old, new, _milliseconds(ttl))
        return bool(await _asked(done))

    async def hold(self, key: str, holder: str, most: int, ttl: float) -> bool:
        taken: Any = self._redis.eval(_HOLD, 1, self._name(key), holder, most, _milliseconds(ttl))
        return bool(await _asked(taken))

    async def let_go(self, key: str, holder: str) -> None:
        await _asked(self._redis.zrem(self._name(key), holder))

    async def close(self) -> None:
        await self._redis.aclose()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


async def _asked(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis: {error}") from None
