"""The kinds of processes in a Stack, each with what a test asks of it."""

import base64
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx2
import orjson
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from app.protocol.heartbeats import WorkerHeartbeat
from tests.acceptance.heartbeats import Heartbeats
from tests.acceptance.processes import PATIENCE, Process, get_json, until


class Endpoint:
    """An address that speaks the OpenAI API: a gateway, or nginx in front of some.

    No TLS here, and clients that loaded its certificates all the same would take 40 ms each to
    make.
    """

    def __init__(self, port: int, key: str = "") -> None:
        self.port = port
        self.key = key
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def openai(self, **options: Any) -> AsyncOpenAI:
        """The asynchronous SDK, without retries of its own unless told otherwise."""
        return AsyncOpenAI(
            **self._options({"http_client": DefaultAsyncHttpxClient(verify=False), **options})
        )

    def openai_sync(self, **options: Any) -> OpenAI:
        return OpenAI(**self._options({"http_client": DefaultHttpxClient(verify=False), **options}))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        defaults = {
            "base_url": self.url,
            "api_key": self.key or "unused",
            "max_retries": 0,
            "timeout": 2 * PATIENCE,
        }
        return {**defaults, **options}

    def http(self, **options: Any) -> httpx2.AsyncClient:
        """A plain HTTP client at the root: `post("/v1/chat/completions", json=...)`."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx2.AsyncClient(
            **{
                "base_url": self.root,
                "headers": headers,
                "timeout": 2 * PATIENCE,
                "verify": False,
                **options,
            }
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """The model objects of /v1/models by id; empty while it does not answer."""
        status, document = await get_json(f"{self.url}/models", self.key)
        return {model["id"]: model for model in document["data"]} if status == 200 else {}


class Gateway(Process, Endpoint):
    """`uvicorn app.main:application`."""

    def __init__(self, port: int, key: str, *process: Any) -> None:
        Endpoint.__init__(self, port, key)
        Process.__init__(self, *process)

    async def is_ready(self) -> bool:
        status, _ = await get_json(f"{self.root}/readyz")
        return status == 200

    async def answers(self, count: int) -> bool:
        """Whether it is answering so many requests, counting those that it has joined."""
        status, view = await get_json(f"{self.root}/admin/overview")
        return status == 200 and bool(view["gateway"]["in_flight"] == count)


@dataclass(frozen=True)
class Seen:
    """A request as it reached the upstream."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Stats:
    """The simulated upstream's counters; `tries` by request id, `requests` the last 100."""

    started: int
    completed: int
    aborted: int
    failed: int
    active: int
    peak: int
    tokens: int
    tries: dict[str, int]
    requests: list[Seen] = field(repr=False)


class Upstream(Process):
    """`python -m tests.upstream`."""

    def __init__(self, port: int, *process: Any) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(*process)

    async def is_ready(self) -> bool:
        status, _ = await get_json(f"{self.url}/v1/models")
        return status == 200

    async def stats(self) -> Stats:
        status, found = await get_json(f"{self.url}/stats")
        assert status == 200, f"{self.name} does not answer\n{self.tail}"
        requests = [
            Seen(**{**seen, "body": base64.b64decode(seen["body"])})
            for seen in found.pop("requests")
        ]
        return Stats(**found, requests=requests)

    async def has(self, **counters: int) -> bool:
        """Whether its counters stand so: `has(active=1, aborted=0)`."""
        now = await self.stats()
        return all(getattr(now, name) == value for name, value in counters.items())

    async def release(self) -> None:
        """What it has begun by now comes without further waits."""
        await self._told("release")

    async def hurry(self) -> None:
        """What it generates comes without waits from now on."""
        await self._told("hurry")

    async def _told(self, word: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/{word}") as response,
        ):
            assert response.status == 200

    async def idle(self) -> Stats:
        """Its counters, once nothing runs any more."""
        await until(lambda: self.has(active=0), f"{self.name} to be idle")
        return await self.stats()

    async def last(self) -> Seen:
        """The request that came last."""
        return (await self.stats()).requests[-1]


class Worker(Process):
    """`python -m app.agent`, for one model or for all of MODELS_FILE."""

    def __init__(
        self, models: tuple[str, ...], beats: Heartbeats, known: set[str], *process: Any
    ) -> None:
        self.models = models
        self.owners: dict[str, str] = {}  # model -> the name its reply records and heartbeats carry
        self._beats = beats
        self._known = known  # owners of workers that were there before
        super().__init__(*process)

    async def is_ready(self) -> bool:
        """Each of its models has a worker of this process that owns partitions."""
        for beat in (await self._beats.read()).values():
            if (
                beat.worker not in self._known
                and beat.model in self.models
                and beat.ready
                and beat.partitions
            ):
                self.owners[beat.model] = beat.worker
        return set(self.owners) == set(self.models)

    async def beat(self, model: str = "") -> WorkerHeartbeat:
        """Its last heartbeat: what runs, which partitions it owns."""
        return (await self._beats.read())[self.owners[model or self.models[0]]]

    async def restart(self) -> None:
        self._known |= set(await self._beats.read())
        self.owners = {}
        await super().restart()
