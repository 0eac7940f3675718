"""OpenAI-compatible upstreams over HTTP. Bytes pass through; a request is sent again only before a reply's first byte."""

import asyncio
import string
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from app.agent.engines.base import EngineUnreachable, Job
from app.agent.engines.http_answer import HttpAnswer, reason
from app.agent.engines.retry import RETRIED, asked_wait, wait_before_retry
from app.catalog import ModelEntry
from app.settings import WorkerSettings
from app.telemetry.metrics import UPSTREAM_RETRIES

# What lives beside /v1 on vLLM, llama.cpp or text-embeddings-inference. OpenAI has none of these, so /v1 is tried first.
ROOT_PATHS = frozenset(
    {"/tokenize", "/detokenize", "/apply-template", "/rerank", "/score", "/pooling", "/classify", "/embed", "/infill"}
)
CHECK_SECONDS = 5
KEEP_ALIVE_SECONDS = 60  # a TLS handshake costs more than an idle socket; what the upstream closes meanwhile is noticed

_is_reused: ContextVar[bool] = ContextVar("is_reused", default=False)


class _Connector(aiohttp.TCPConnector):
    """Notes whether the connection it hands out has carried a request before (aiohttp's tracing would cost 20 us a call)."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        _is_reused.set(False)
        connection = await super().connect(req, traces, timeout)
        assert connection.protocol is not None  # it has not been released
        _is_reused.set(connection.protocol in self._used)
        self._used.add(connection.protocol)
        return connection


class HttpEngine:
    """One upstream and its pool of connections."""

    _session: aiohttp.ClientSession

    def __init__(
        self, entry: ModelEntry, settings: WorkerSettings, *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._entry = entry
        self._retries = settings.upstream_retries
        self._longest_wait = settings.upstream_retry
        self._pause = pause
        url = URL(entry.host)
        self._name = f"{url.host}:{url.port}"  # for messages: without credentials
        self._base = base_url(entry)
        self._root = self._base.removesuffix("/v1")
        self._answering: dict[str, str] = {}  # of ROOT_PATHS: base or root, whichever was not 404

    async def start(self) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "llm-gateway"}
        if token := self._entry.token.get_secret_value():
            headers["Authorization"] = f"Bearer {token}"
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(connect=self._entry.connect_timeout, sock_read=self._entry.read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),  # no upstream gets to tie one client's request to another's
        )

    async def close(self) -> None:
        await self._session.close()

    async def check(self) -> str:
        try:
            async with self._models() as response:
                return self._check_status(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{self._name}: {reason(error)}"

    def _check_status(self, status: int) -> str:
        if status < 300 or status in (403, 404, 405, 429):  # up, but it lists no models, or not to this token
            return ""
        if status == 401:
            verb = "refuses the" if self._entry.token.get_secret_value() else "wants a"
            return f"{self._name} {verb} token (401)"
        if status < 400:
            return f"{self._name} redirects ({status}): the host must be its final address"
        return f"{self._name} answers {status}"

    async def continues(self) -> bool:
        if isinstance(self._entry.continues, bool):
            return self._entry.continues
        try:
            async with self._models() as response:
                return _lists_vllm(orjson.loads(await response.read()), self._entry.upstream_name)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return False

    def _models(self) -> Any:
        timeout = aiohttp.ClientTimeout(total=CHECK_SECONDS)
        return self._session.get(_url(self._base, "/models"), timeout=timeout, allow_redirects=False)

    async def call(self, job: Job) -> HttpAnswer:
        """The reply's head. No retry is begun that would end past the job's deadline; ending a call there is the caller's."""
        path = job.path.partition("?")[0]
        if path not in ROOT_PATHS:
            return await self._with_retries(self._base, job)
        return await self._at_base_or_root(path, job)

    async def _at_base_or_root(self, path: str, job: Job) -> HttpAnswer:
        known = self._answering.get(path)
        answer = await self._with_retries(known or self._base, job)
        if answer.status == 404 and not known and self._root != self._base:
            await answer.close()
            answer = await self._with_retries(self._root, job)
            known = self._root
        if answer.status != 404:
            self._answering[path] = known or self._base
        return answer

    async def _with_retries(self, base: str, job: Job) -> HttpAnswer:
        url = _url(base, job.path)
        done = 0
        while True:
            try:
                answer = await self._send(url, job)
            except (aiohttp.ClientError, TimeoutError) as error:
                wait = None if isinstance(error, aiohttp.SocketTimeoutError) else self._wait(done, job)
                if wait is None:
                    raise EngineUnreachable(f"{self._name}: {reason(error)}") from error
            else:
                wait = self._wait_after(answer, done, job) if answer.status in RETRIED else None
                if wait is None:
                    return answer
                await answer.close()
            UPSTREAM_RETRIES.labels(self._entry.id).inc()
            await self._pause(wait)
            done += 1

    def _wait_after(self, answer: HttpAnswer, done: int, job: Job) -> float | None:
        headers = dict(answer.headers)
        if headers.get("x-should-retry") == "false":
            return None
        return self._wait(done, job, asked_wait(headers, time.time()))

    def _wait(self, done: int, job: Job, asked: float = 0) -> float | None:
        left = job.deadline - asyncio.get_running_loop().time()
        return wait_before_retry(done, self._retries, self._longest_wait, left, asked)

    async def _send(self, url: URL, job: Job) -> HttpAnswer:
        """Sends once; again, at once, on another connection where the upstream had closed a kept-alive one."""
        headers = [("x-request-id", job.id), *job.head]
        while True:
            try:
                response = await self._session.post(url, data=job.body, headers=headers, allow_redirects=False)
                return HttpAnswer(response, self._entry.read_timeout)
            except aiohttp.ClientConnectionError as error:
                if not _is_reused.get() or isinstance(error, aiohttp.ServerTimeoutError):
                    raise


def base_url(entry: ModelEntry) -> str:
    """Where the API begins: `/v1` is added to a host without a path. A token wins over credentials in the address."""
    url = URL(entry.host)
    if entry.token.get_secret_value():
        url = url.with_user(None)
    return str(url).rstrip("/") + ("/v1" if url.path in ("", "/") else "")


@lru_cache(maxsize=64)
def _url(base: str, target: str) -> URL:
    """Where a request goes. Behind a `?` of the target stands the client's query, which is encoded already."""
    path, mark, query = target.partition("?")
    return URL(base + quote(path, safe="/:@~") + mark + quote(query, safe=string.punctuation), encoded=True)


def _lists_vllm(listed: Any, model: str) -> bool:
    data = listed.get("data") if isinstance(listed, dict) else None
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    named = [card for card in cards if card.get("id") == model]
    return any(card.get("owned_by") == "vllm" for card in named or cards)
