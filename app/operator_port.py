"""The operator's port (ADMIN_PORT): a second uvicorn server in the event loop of the process.

It serves /metrics and the routes that each process adds. It asks for no key, so it refuses web
pages of others, and names that DNS can repoint (ADMIN_HOSTS).
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from errno import EADDRINUSE
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.config.settings import AdminSettings
from app.locality import AccessPolicy
from app.telemetry.exposition import CONTENT_TYPE, metrics_text

MAX_CONNECTIONS = 32
CONNECTION_SECONDS = 10.0  # for the head of a request; each connection has one

_MAX_PROCESSES = 64  # of one environment on one machine

logger = logging.getLogger("app.operator_port")


@asynccontextmanager
async def operator_port(
    settings: AdminSettings, routes: Sequence[BaseRoute]
) -> AsyncIterator[None]:
    """Serve /metrics and `routes` at ADMIN_PORT meanwhile; do nothing where it is 0.

    An address that cannot be bound is logged, and keeps no process from serving.
    """
    listening = _bind(settings) if settings.port else None
    if listening is None:
        yield
        return
    server = uvicorn.Server(_config(settings, routes))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listening])
    logger.info("/metrics at %s port %d", *listening.getsockname()[:2])
    running = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await running
        await server.shutdown([listening])


class _Protocol(HttpToolsProtocol):
    """A bounded number of connections, each for one request, whose head must come in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._head_timer = self.loop.call_later(CONNECTION_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None:  # no request has begun
            self.transport.close()


def _config(settings: AdminSettings, routes: Sequence[BaseRoute]) -> uvicorn.Config:
    paths = sorted({route.path for route in routes if isinstance(route, Route)} | {"/metrics"})
    metrics = Route("/metrics", _metrics)
    unknown = Route("/{path:path}", partial(_unknown, paths))
    application = Starlette(routes=[metrics, *routes, unknown])
    return uvicorn.Config(
        _Guard(
            application, AccessPolicy(is_local_only=False, allowed_hosts=settings.allowed_hosts)
        ),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("connection", "close"), ("x-content-type-options", "nosniff")],
    )


class _Guard:
    """Refuses what the policy refuses, with a line of text that says why."""

    def __init__(self, application: ASGIApp, policy: AccessPolicy) -> None:
        self._application = application
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = (scope.get("client") or ("",))[0]
        if why := self._policy.find_refusal_reason(peer, scope["headers"]):
            text = f"This port is the operator's, so {why} (ADMIN_HOSTS).\n"
            return await PlainTextResponse(text, 403)(scope, receive, send)
        await self._application(scope, receive, send)


async def _metrics(_request: Request) -> Response:
    return Response(metrics_text(), media_type=CONTENT_TYPE)


async def _unknown(paths: list[str], _request: Request) -> Response:
    return JSONResponse({"paths": paths}, 404)


def _bind(settings: AdminSettings) -> socket.socket | None:
    """Return a socket at the first free port from ADMIN_PORT on; None if there is none.

    Several processes with one environment (`uvicorn --workers`) have neighbouring ports.
    """
    why = ""
    for port in range(settings.port, min(settings.port + _MAX_PROCESSES, 65536)):
        try:
            return _listen(settings.host, port)
        except OSError as error:
            why = why or str(error)
            if error.errno != EADDRINUSE:
                break
    logger.warning(
        "no /metrics at %s port %d (ADMIN_HOST, ADMIN_PORT): %s", settings.host, settings.port, why
    )
    return None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address: tuple[Any, ...] = (host, port)
    return socket.create_server(address, family=family)
