"""A store in Redis, shared by all gateways that are given the same REDIS_URL."""

import asyncio
from asyncio import Future, Task
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from app.errors import StoreUnavailable

Command: TypeAlias = Callable[[Any], Any]  # is queued in a pipeline

_CALL_SECONDS = 2.0
_SWAP = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
  redis.call('set', KEYS[1], ARGV[2], 'keepttl')
else
  redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
end
return 1
"""
# A sorted set of holders by the time when their places are free again, by Redis's own clock, in
# milliseconds.
_NOW = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
"""
_KEPT = "if redis.call('pttl', KEYS[1]) < ttl then redis.call('pexpire', KEYS[1], ttl) end"
_HOLD = f"""{_NOW}
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
local held = redis.call('zscore', KEYS[1], ARGV[2])
if not held and redis.call('zcard', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('zadd', KEYS[1], now + ttl, ARGV[2])
{_KEPT}
return 1
"""
_RENEW = f"""{_NOW}
for index = 2, #ARGV do redis.call('zadd', KEYS[1], now + ttl, ARGV[index]) end
{_KEPT}
"""
_ADD = """
local value = redis.call('incrby', KEYS[1], ARGV[1])
if redis.call('pttl', KEYS[1]) < 0 then redis.call('pexpire', KEYS[1], ARGV[2]) end
return value
"""


def _options() -> dict[str, Any]:
    """Of every connection. One more try, at once, on a new one: one that lay idle may have been cut
    by Redis, or by what lies between, and its next use would look as if Redis were away. What takes
    too long is not tried again.
    """
    once_more = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    return {
        "socket_timeout": _CALL_SECONDS,
        "socket_connect_timeout": _CALL_SECONDS,
        "retry": once_more,
    }


class RedisStore:
    """`prefix` keeps deployments apart that share one Redis.

    Commands that come while others are under way go together, as one pipeline: by itself each costs
    the gateway a seventh of a millisecond of CPU, of many together a third of that.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = Redis.from_url(url, **_options())
        self._prefix = prefix
        self._waiting: list[tuple[Command, Future[Any]]] = []
        self._sending: Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        value = await self._asked(lambda pipeline: pipeline.get(self._name(key)))
        return bytes(value) if value is not None else None

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bytes | None:
        name, milliseconds = self._name(key), _milliseconds(ttl)
        there = await self._asked(
            lambda pipeline: pipeline.set(name, value, nx=True, get=True, px=milliseconds)
        )
        return bytes(there) if there is not None else None

    async def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool:
        name, milliseconds = self._name(key), "" if ttl is None else _milliseconds(ttl)
        return bool(
            await self._asked(
                lambda pipeline: pipeline.eval(_SWAP, 1, name, old, new, milliseconds)
            )
        )

    async def hold(self, key: str, holder: str, most: int, ttl: float) -> bool:
        name, milliseconds = self._name(key), _milliseconds(ttl)
        return bool(
            await self._asked(
                lambda pipeline: pipeline.eval(_HOLD, 1, name, milliseconds, holder, most)
            )
        )

    async def renew(self, holders: Mapping[str, Collection[str]], ttl: float) -> None:
        milliseconds = _milliseconds(ttl)
        # Nothing is awaited before all are queued: whoever lets go from now on is heard after this.
        await asyncio.gather(
            *(
                self._renewed(self._name(key), of_key, milliseconds)
                for key, of_key in holders.items()
            )
        )

    async def let_go(self, key: str, holder: str) -> None:
        await self._asked(lambda pipeline: pipeline.zrem(self._name(key), holder))

    async def add(self, key: str, amount: int, ttl: float) -> int:
        name, milliseconds = self._name(key), _milliseconds(ttl)
        return int(
            await self._asked(lambda pipeline: pipeline.eval(_ADD, 1, name, amount, milliseconds))
        )

    async def close(self) -> None:
        await self._redis.aclose()

    def _renewed(self, name: str, holders: Collection[str], milliseconds: int) -> "Future[Any]":
        return self._asked(lambda pipeline: pipeline.eval(_RENEW, 1, name, milliseconds, *holders))

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _asked(self, command: Command) -> "Future[Any]":
        """Its answer. Raises StoreUnavailable."""
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return future

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                answers = await self._answers([command for command, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    _tell(future, answer)
        finally:
            self._sending = None

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """One for each, or the error it comes to."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            command(pipeline)
        try:
            return await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            return [error] * len(commands)


def _tell(future: "Future[Any]", answer: Any) -> None:
    if future.done():  # whoever asked has left
        return
    if isinstance(answer, Exception):
        future.set_exception(StoreUnavailable(f"Redis: {answer}"))
    else:
        future.set_result(answer)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
