"""What the tests of engines share: settings, entries, jobs, and an upstream that is the echo model
behind HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from app.agent.engines.base import Answer, Job
from app.agent.engines.echo import EchoEngine
from app.agent.engines.http.engine import HttpEngine
from app.config.model_entry import ECHO, ModelEntry
from app.config.settings import WorkerSettings, load_settings
from tests.contract.scripted_upstream import LAST_CHUNK, Exchange, chunk, head

Pause = Callable[[float], Awaitable[object]]


def worker_settings(**variables: str) -> WorkerSettings:
    return load_settings(variables).worker


def job(path: str = "/chat/completions", *, stream: bool = False, **more: Any) -> Job:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": stream,
    }
    return Job(**{"id": "0123", "path": path, "body": orjson.dumps(body), "stream": stream, **more})


class Waits:
    """Stands in for asyncio.sleep between retries: notes how long, and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@asynccontextmanager
async def http_engine(
    host: str, *, pause: Pause = asyncio.sleep, retries: int = 2, **entry: Any
) -> AsyncIterator[HttpEngine]:
    engine = HttpEngine(
        ModelEntry(id="m", host=host, **entry),
        worker_settings(UPSTREAM_RETRIES=str(retries)),
        pause=pause,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def echo_over_http(exchange: Exchange) -> None:
    """The script of an upstream that answers as the echo model does."""
    if exchange.target == "/v1/models":
        return await exchange.reply(200, b'{"data":[]}')
    stream = orjson.loads(exchange.body).get("stream") is True
    asked = job(exchange.target.removeprefix("/v1"), stream=stream, body=exchange.body)
    answer = await EchoEngine(ECHO, worker_settings(), pause=0).call(asked)
    await exchange.send(head(answer.status, **dict(answer.headers), transfer_encoding="chunked"))
    await answer.relay(lambda piece: exchange.send(chunk(piece)))
    await exchange.send(LAST_CHUNK)


async def collect(answer: Answer) -> bytes:
    pieces: list[bytes] = []
    await answer.relay(pieces.append)
    return b"".join(pieces)


class Reading:
    """An answer whose pieces are taken one by one; `end` returns at the stream's end, or raises as
    it does.
    """

    def __init__(self, answer: Answer) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(answer.relay(self._pieces.put_nowait))

    async def next(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._pieces.get()

    async def end(self) -> bytes:
        """The pieces that nobody has taken."""
        async with asyncio.timeout(10):
            await self._task
        return b"".join([self._pieces.get_nowait() for _ in range(self._pieces.qsize())])
