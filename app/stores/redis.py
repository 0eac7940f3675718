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

PipelineCommand: TypeAlias = Callable[[Any], Any]  # is queued in a pipeline

_CALL_TIMEOUT_SECONDS = 2.0
_COMPARE_AND_SWAP_SCRIPT = """
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
_READ_NOW_AND_TTL = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
"""
_EXTEND_KEY_TTL = (
    "if redis.call('pttl', KEYS[1]) < ttl then redis.call('pexpire', KEYS[1], ttl) end"
)
_ACQUIRE_LEASE_SCRIPT = f"""{_READ_NOW_AND_TTL}
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
local held = redis.call('zscore', KEYS[1], ARGV[2])
if not held and redis.call('zcard', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('zadd', KEYS[1], now + ttl, ARGV[2])
{_EXTEND_KEY_TTL}
return 1
"""
_RENEW_LEASES_SCRIPT = f"""{_READ_NOW_AND_TTL}
for index = 2, #ARGV do redis.call('zadd', KEYS[1], now + ttl, ARGV[index]) end
{_EXTEND_KEY_TTL}
"""
_ADD_TO_COUNTER_SCRIPT = """
local value = redis.call('incrby', KEYS[1], ARGV[1])
if redis.call('pttl', KEYS[1]) < 0 then redis.call('pexpire', KEYS[1], ARGV[2]) end
return value
"""


def _connection_options() -> dict[str, Any]:
    """Of every connection. One more try, at once, on a new one: one that lay idle may have been cut
    by Redis, or by what lies between, and its next use would look as if Redis were away. What takes
    too long is not tried again.
    """
    once_more = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    return {
        "socket_timeout": _CALL_TIMEOUT_SECONDS,
        "socket_connect_timeout": _CALL_TIMEOUT_SECONDS,
        "retry": once_more,
    }


class RedisStore:
    """`prefix` keeps deployments apart that share one Redis.

    Commands that come while others are under way go together, as one pipeline: by itself each costs
    the gateway a seventh of a millisecond of CPU, of many together a third of that.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = Redis.from_url(url, **_connection_options())
        self._prefix = prefix
        self._pending_commands: list[tuple[PipelineCommand, Future[Any]]] = []
        self._send_task: Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        value = await self._enqueue_command(lambda pipeline: pipeline.get(self._redis_key(key)))
        return bytes(value) if value is not None else None

    async def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        name, milliseconds = self._redis_key(key), _to_milliseconds(ttl_seconds)
        existing = await self._enqueue_command(
            lambda pipeline: pipeline.set(name, value, nx=True, get=True, px=milliseconds)
        )
        return bytes(existing) if existing is not None else None

    async def compare_and_swap(
        self, key: str, expected_value: bytes, new_value: bytes, ttl_seconds: float | None
    ) -> bool:
        name, milliseconds = (
            self._redis_key(key),
            "" if ttl_seconds is None else _to_milliseconds(ttl_seconds),
        )
        return bool(
            await self._enqueue_command(
                lambda pipeline: pipeline.eval(
                    _COMPARE_AND_SWAP_SCRIPT, 1, name, expected_value, new_value, milliseconds
                )
            )
        )

    async def acquire_lease(
        self, key: str, holder: str, max_holders: int, ttl_seconds: float
    ) -> bool:
        name, milliseconds = self._redis_key(key), _to_milliseconds(ttl_seconds)
        return bool(
            await self._enqueue_command(
                lambda pipeline: pipeline.eval(
                    _ACQUIRE_LEASE_SCRIPT, 1, name, milliseconds, holder, max_holders
                )
            )
        )

    async def renew_leases(
        self, holders: Mapping[str, Collection[str]], ttl_seconds: float
    ) -> None:
        milliseconds = _to_milliseconds(ttl_seconds)
        # Nothing is awaited before all are queued: whoever lets go from now on is heard after this.
        await asyncio.gather(
            *(
                self._enqueue_renewal(self._redis_key(key), of_key, milliseconds)
                for key, of_key in holders.items()
            )
        )

    async def release_lease(self, key: str, holder: str) -> None:
        await self._enqueue_command(lambda pipeline: pipeline.zrem(self._redis_key(key), holder))

    async def add_to_counter(self, key: str, amount: int, ttl_seconds: float) -> int:
        name, milliseconds = self._redis_key(key), _to_milliseconds(ttl_seconds)
        return int(
            await self._enqueue_command(
                lambda pipeline: pipeline.eval(
                    _ADD_TO_COUNTER_SCRIPT, 1, name, amount, milliseconds
                )
            )
        )

    async def close(self) -> None:
        await self._redis.aclose()

    def _enqueue_renewal(
        self, name: str, holders: Collection[str], milliseconds: int
    ) -> "Future[Any]":
        return self._enqueue_command(
            lambda pipeline: pipeline.eval(_RENEW_LEASES_SCRIPT, 1, name, milliseconds, *holders)
        )

    def _redis_key(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _enqueue_command(self, command: PipelineCommand) -> "Future[Any]":
        """Its answer. Raises StoreUnavailable."""
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self._pending_commands.append((command, future))
        if self._send_task is None:
            self._send_task = asyncio.create_task(self._send_batches())
        return future

    async def _send_batches(self) -> None:
        try:
            while self._pending_commands:
                batch, self._pending_commands = self._pending_commands, []
                answers = await self._execute_batch([command for command, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    _resolve_future(future, answer)
        finally:
            self._send_task = None

    async def _execute_batch(self, commands: Sequence[PipelineCommand]) -> list[Any]:
        """One for each, or the error it comes to."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            command(pipeline)
        try:
            return await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            return [error] * len(commands)


def _resolve_future(future: "Future[Any]", result: Any) -> None:
    if future.done():  # whoever asked has left
        return
    if isinstance(result, Exception):
        future.set_exception(StoreUnavailable(f"Redis: {result}"))
    else:
        future.set_result(result)


def _to_milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
