"""Clients that read while a test looks on: each event is kept with its time, its number, and how
the reply ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from app.protocol.request_id import Address
from tests.acceptance.asking import CHAT, chat
from tests.acceptance.processes import until
from tests.acceptance.services import Endpoint, Stats
from tests.numbered import tokens

DONE = "[DONE]"
TICK = 0.05  # seconds


@dataclass
class Told:
    """What one client has been told so far."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    events: list[Any] = field(default_factory=list)  # JSON documents, and the text [DONE]
    times: list[float] = field(default_factory=list)  # of the events; monotonic
    ids: list[int] = field(default_factory=list)  # of their `id:` lines
    comments: list[str] = field(default_factory=list)
    cut: bool = False  # the connection ended before the reply did

    @property
    def public_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def id(self) -> str:
        """The internal id, by which the upstream and the workers know the request."""
        address = Address.decode(self.public_id)
        assert address is not None
        return address.id

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def chunks(self) -> list[Any]:
        return [event for event in self.events if event != DONE and "choices" in event]

    @property
    def pieces(self) -> list[str]:
        """The texts of the tokens."""
        texts = [
            choice["delta"].get("content") for chunk in self.chunks for choice in chunk["choices"]
        ]
        return [text for text in texts if text]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def error(self) -> dict[str, Any]:
        """The error that ended the reply, as a body or as a stream's last event."""
        last = self.events[-1] if self.events else self.json
        error: dict[str, Any] = last["error"]
        return error

    def longest_pause(self, since: float) -> float:
        """When it ended: the time of the event behind the longest wait that reached past
        `since`.
        """
        waits = [
            (after - before, after)
            for before, after in zip(self.times, self.times[1:], strict=False)
            if after > since
        ]
        return max(waits)[1]


class Reading:
    """A request whose reply is read by a task of its own."""

    def __init__(
        self, session: aiohttp.ClientSession, method: str, url: str, **options: Any
    ) -> None:
        self.told = Told()
        self._task = asyncio.create_task(self._read(session, method, url, options))

    async def end(self) -> Told:
        """Returns when the reply has ended, or its connection."""
        await self._task
        return self.told

    async def tokens(self, count: int) -> None:
        """Returns when so many tokens are here."""
        await until(lambda: len(self.told.pieces) >= count or self._task.done(), f"{count} tokens")
        assert len(self.told.pieces) >= count, self.told

    async def leave(self) -> None:
        """Closes the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(
        self, session: aiohttp.ClientSession, method: str, url: str, options: dict[str, Any]
    ) -> None:
        told = self.told
        try:
            async with session.request(method, url, **options) as response:
                told.status, told.headers = response.status, response.headers
                if response.content_type != "text/event-stream":
                    told.body = await response.read()
                    return
                async for line in response.content:
                    told.body += line
                    self._take(line.decode().rstrip("\n"))
        except (aiohttp.ClientError, ConnectionError):
            told.cut = True

    def _take(self, line: str) -> None:
        if line.startswith("data: "):
            data = line[6:]
            self.told.events.append(DONE if data == DONE else orjson.loads(data))
            self.told.times.append(time.monotonic())
        elif line.startswith("id: "):
            self.told.ids.append(int(line[4:]))
        elif line.startswith(":"):
            self.told.comments.append(line[1:].strip())


class Clients:
    """Many clients of many endpoints, each request on a connection of its own."""

    def __init__(self, patience: float = 300.0) -> None:
        self._patience = patience  # seconds for one reply

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._patience),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    def post(
        self, endpoint: Endpoint, body: dict[str, Any], path: str = CHAT, **headers: str
    ) -> Reading:
        """Begins to ask; `headers` with _ for -."""
        return self._begin(endpoint, "POST", path, headers, json=body)

    def get(self, endpoint: Endpoint, path: str, **headers: str) -> Reading:
        return self._begin(endpoint, "GET", path, headers)

    def _begin(
        self, endpoint: Endpoint, method: str, path: str, headers: dict[str, str], **options: Any
    ) -> Reading:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        key = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        return Reading(
            self._session, method, endpoint.root + path, headers={**key, **named}, **options
        )


async def ends(readings: list[Reading]) -> list[Told]:
    """All replies, when all have ended."""
    return await asyncio.gather(*(reading.end() for reading in readings))


def check_whole(told: Told, count: int, *, usage: bool = False) -> None:
    """A chat's stream of `count` numbered tokens: none missing, none doubled, and in all else the
    stream of one run.
    """
    assert (told.status, told.cut) == (200, False), told
    assert told.text in (tokens(count), tokens(count, odd=True)), told.text
    assert told.events.count(DONE) == 1
    assert told.events[-1] == DONE
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in told.chunks}) == 1
    choices = [choice for chunk in told.chunks for choice in chunk["choices"]]
    assert [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]] == [
        "assistant"
    ]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    found = [chunk["usage"] for chunk in told.chunks if chunk.get("usage")]
    assert found == (
        [{"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}]
        if usage
        else []
    )


def check_whole_body(told: Told, count: int) -> None:
    """The same of a chat that was not streamed."""
    assert told.status == 200, told.body
    assert told.json["choices"][0]["message"]["content"] in (tokens(count), tokens(count, odd=True))


@asynccontextmanager
async def stalls() -> AsyncIterator[list[float]]:
    """Seconds by which this process woke too late during the block: what stood still with it cannot
    have been any faster.
    """
    late: list[float] = []
    due = time.monotonic() + TICK

    async def watch() -> None:
        nonlocal due
        while True:
            await asyncio.sleep(TICK)
            late.append(time.monotonic() - due)
            due = time.monotonic() + TICK

    watching = asyncio.create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()
        late.append(max(0.0, time.monotonic() - due))


@asynccontextmanager
async def load(clients: Clients, endpoint: Endpoint, at_once: int) -> AsyncIterator[list[Told]]:
    """Clients that send one request after another until the end of the block: half of them streams,
    of 1.2 s each.
    """
    told: list[Told] = []
    done = asyncio.Event()

    async def client(stream: bool) -> None:
        while not done.is_set():
            told.append(
                await clients.post(endpoint, chat(stream=stream, max_tokens=40, x_gap=0.03)).end()
            )

    running = [asyncio.create_task(client(bool(number % 2))) for number in range(at_once)]
    try:
        yield told
    finally:
        done.set()
        await asyncio.gather(*running)


def check_once(told: list[Told], stats: Stats) -> None:
    """All were answered, by one generation each."""
    for one in told:
        check_whole(one, 40) if one.events else check_whole_body(one, 40)
    assert [stats.tries[one.id] for one in told] == [1] * len(told)
    assert stats.started == len(told)
