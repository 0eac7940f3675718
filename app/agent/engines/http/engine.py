"""OpenAI-compatible upstreams over HTTP. Bytes pass through; a request is sent again only before a
reply's first byte.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from app.agent.engines.base import EngineBroken, EngineUnreachable, Job
from app.agent.engines.http.answer import HttpAnswer
from app.agent.engines.http.errors import (
    NO_BYTE,
    Silent,
    Stale,
    TooLarge,
    Unreadable,
    UpstreamError,
)
from app.agent.engines.http.pool import Pool
from app.agent.engines.http.proxy import proxy_for
from app.agent.engines.http.request import Address, common_head, own_head, request_line
from app.agent.engines.retry import RETRIED, asked_wait, wait_before_retry
from app.config.model_entry import ModelEntry
from app.config.settings import WorkerSettings
from app.errors import ReplyTooLarge, UpstreamInvalidReply
from app.telemetry.metrics import UPSTREAM_RETRIES

# What lives beside /v1 on vLLM, llama.cpp or text-embeddings-inference. OpenAI has none of these,
# so /v1 is tried first.
ROOT_PATHS = frozenset(
    {
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/rerank",
        "/score",
        "/pooling",
        "/classify",
        "/embed",
        "/infill",
    }
)
CHECK_SECONDS = 5
LIST_BYTES = 4 * 1024 * 1024  # of an upstream's list of models that are read
# what a proxy says itself where it cannot or will not reach the upstream
_OF_A_PROXY = frozenset({407, 502, 504})
# seconds beyond a request's own deadline, so that the deadline is what ends it
_DEADLINE_LEEWAY = 10.0


class HttpEngine:
    """One upstream and its pool of connections."""

    def __init__(
        self,
        entry: ModelEntry,
        settings: WorkerSettings,
        *,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._entry = entry
        self._retries = settings.max_upstream_retries
        self._longest_wait = settings.max_retry_wait_seconds
        self._pause = pause
        address = Address.of(entry.host)
        self._name = address.name  # for messages: without credentials
        self._query = address.query
        proxy = proxy_for(address, settings.http_proxy, settings.https_proxy, settings.no_proxy)
        # A proxy is told the whole address, unless it only makes a tunnel (RFC 9112 section 3.2.2).
        self._is_proxied = proxy is not None
        origin = f"http://{address.authority}" if proxy is not None and not address.tls else ""
        self._base = origin + address.path
        self._root = self._base.removesuffix("/v1")
        self._head = common_head(address, entry.token.get_secret_value())
        if origin and proxy is not None:
            self._head += proxy.authorization
        read_timeout = entry.read_timeout or settings.request_timeout_seconds + _DEADLINE_LEEWAY
        self._pool = Pool(address, entry.connect_timeout, read_timeout, proxy)
        self._answering: dict[str, str] = {}  # of ROOT_PATHS: base or root, whichever was not 404

    async def start(self) -> None:
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    async def check(self) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                answer = await self._models()
        except TimeoutError:
            return f"{self._name}: {NO_BYTE}"
        except UpstreamError as error:
            return f"{self._name}: {error}"
        await answer.close()
        return self._check_status(answer.status)

    def _check_status(self, status: int) -> str:
        """Return why the upstream serves nothing; empty where any answer of HTTP shows that it is
        there.

        The list of models is optional: servers exist that answer 400, 403, 404 or 501 there, and
        serve well.
        """
        if status == 401:
            verb = "refuses the" if self._entry.token.get_secret_value() else "wants a"
            return f"{self._name} {verb} token (401)"
        if 300 <= status < 400:
            return f"{self._name} redirects ({status}): the host must be its final address"
        if self._is_proxied and status in _OF_A_PROXY:
            return f"{self._name}: its proxy answers {status}"
        return f"{self._name} answers {status}" if status == 503 else ""

    async def continues(self) -> bool:
        if isinstance(self._entry.continues, bool):
            return self._entry.continues
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                listed = await (await self._models()).read(LIST_BYTES)
            return _lists_vllm(orjson.loads(listed), self._entry.upstream_name)
        except (UpstreamError, EngineBroken, ReplyTooLarge, TimeoutError, orjson.JSONDecodeError):
            return False

    async def _models(self) -> HttpAnswer:
        return await self._ask(
            request_line("GET", self._base, "/models", self._query) + self._head + b"\r\n"
        )

    async def call(self, job: Job) -> HttpAnswer:
        """The reply's head. No retry is begun that would end past the job's deadline; ending a call
        there is the caller's.
        """
        path = job.path.partition("?")[0]
        if path not in ROOT_PATHS:
            return await self._with_retries(self._base, job)
        return await self._at_base_or_root(path, job)

    async def _at_base_or_root(self, path: str, job: Job) -> HttpAnswer:
        known = self._answering.get(path)
        answer = await self._with_retries(self._base if known is None else known, job)
        if answer.status == 404 and known is None and self._root != self._base:
            await answer.close()
            answer = await self._with_retries(self._root, job)
            known = self._root
        if answer.status != 404:
            self._answering[path] = self._base if known is None else known
        return answer

    async def _with_retries(self, base: str, job: Job) -> HttpAnswer:
        line = request_line("POST", base, job.path, self._query)
        head = b"%b%b%bContent-Length: %d\r\n\r\n" % (
            line,
            self._head,
            own_head(job.id, job.content_type, job.head),
            len(job.body),
        )
        done = 0
        while True:
            try:
                answer = await self._ask(head, job.body)
            except Unreadable as error:
                kind = ReplyTooLarge if isinstance(error, TooLarge) else UpstreamInvalidReply
                raise kind(
                    f"the server of model {self._entry.id!r} sent what cannot be passed on: {error}"
                ) from error
            except UpstreamError as error:
                wait = None if isinstance(error, Silent) else self._wait(done, job)
                if wait is None:
                    silent = isinstance(error, Silent)
                    raise EngineUnreachable(f"{self._name}: {error}", is_silent=silent) from error
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

    async def _ask(self, *parts: bytes) -> HttpAnswer:
        """Sends once; again, at once, on another connection where the upstream had closed a
        kept-alive one.
        """
        while True:
            connection = self._pool.take() or await self._pool.connect()
            try:
                return await connection.ask(*parts)
            except Stale:
                continue


def _lists_vllm(listed: Any, model: str) -> bool:
    data = listed.get("data") if isinstance(listed, dict) else None
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    named = [card for card in cards if card.get("id") == model]
    return any(card.get("owned_by") == "vllm" for card in named or cards)
