"""/metrics: on the admin port, beside what else is put there, or the text of it for a port that is somebody else's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from errno import EADDRINUSE
from ipaddress import ip_address
from threading import Thread
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, make_wsgi_app, start_http_server
from prometheus_client.registry import Collector

from app.runtime import shares_its_port
from app.settings import AdminSettings
from app.telemetry.metrics import REGISTRY
from app.telemetry.siblings import Siblings
from app.web_pages import is_own_page, names_this_machine

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_MOST_PROCESSES = 64  # of one environment on one machine

logger = logging.getLogger("app.telemetry")

CONTENT_TYPE = CONTENT_TYPE_LATEST


_siblings = Siblings(REGISTRY) if shares_its_port() else None


async def text() -> bytes:
    """Every metric, as Prometheus reads it (CONTENT_TYPE); where several processes share the gateway's port, those of all."""
    return await _siblings.text() if _siblings else generate_latest(REGISTRY)


@asynccontextmanager
async def exposed(
    settings: AdminSettings, collectors: Iterable[Collector] = (), others: "WSGIApplication | None" = None
) -> AsyncIterator[None]:
    """Meanwhile the collectors are asked too, and ADMIN_PORT, where it is set, answers, from threads of its own.

    `others`: has every path there but /metrics; without it there is nothing else.
    """
    async with AsyncExitStack() as stack:
        for collector in collectors:
            REGISTRY.register(collector)
            stack.callback(REGISTRY.unregister, collector)
        if settings.port:
            await stack.enter_async_context(_served(settings, others))
        elif _siblings:
            await stack.enter_async_context(_siblings.heard())
        yield


@asynccontextmanager
async def _served(settings: AdminSettings, others: "WSGIApplication | None") -> AsyncIterator[None]:
    started = _started(settings)
    if started is None:
        yield
        return
    server, _ = started
    app = make_wsgi_app(REGISTRY)
    if others is not None:
        app = _beside(app, others)
    server.set_app(_without_foreign_pages(app) if _is_loopback(settings.host) else app)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)  # waits for its loop's next turn
        server.server_close()


def _started(settings: AdminSettings) -> "tuple[WSGIServer, Thread] | None":
    """At the first port that is free: several processes with one environment (`uvicorn --workers`) have neighbouring ones.

    None if there is none, which keeps nobody from serving.
    """
    why = ""
    for port in range(settings.port, min(settings.port + _MOST_PROCESSES, 65536)):
        try:
            started = start_http_server(port, settings.host, REGISTRY)
        except OSError as error:
            why = why or str(error)
            if error.errno != EADDRINUSE:
                break
        else:
            logger.info("/metrics at %s port %d", settings.host, port)
            return started
    logger.warning("no /metrics at %s port %d (ADMIN_HOST, ADMIN_PORT): %s", settings.host, settings.port, why)
    return None


def _beside(metrics: "WSGIApplication", others: "WSGIApplication") -> "WSGIApplication":
    def chosen(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        return (metrics if environ["PATH_INFO"] == "/metrics" else others)(environ, start_response)

    return chosen


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _without_foreign_pages(app: "WSGIApplication") -> "WSGIApplication":
    """On loopback a browser on this machine is the one way in for others; elsewhere names are what this port is asked by."""

    def chosen(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if names_this_machine(host) and is_own_page(environ.get("HTTP_ORIGIN", ""), host):
            return app(environ, start_response)
        start_response("404 Not Found", [("content-type", "text/plain; charset=utf-8")])
        return [b"Not Found"]

    return chosen
