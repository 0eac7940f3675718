"""/metrics: on the admin port, beside what else is put there, or the text of it for a port that is
somebody else's.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from errno import EADDRINUSE
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, make_wsgi_app
from prometheus_client.registry import Collector

from app.config.settings import AdminSettings
from app.locality import Policy
from app.process import shares_its_port
from app.telemetry.metrics import REGISTRY
from app.telemetry.siblings import Siblings
from app.telemetry.wsgi_server import start_server

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_MOST_PROCESSES = 64  # of one environment on one machine

logger = logging.getLogger("app.telemetry")

CONTENT_TYPE = CONTENT_TYPE_LATEST


_siblings = Siblings(REGISTRY) if shares_its_port() else None


async def text() -> bytes:
    """Every metric, as Prometheus reads it (CONTENT_TYPE); where several processes share the
    gateway's port, those of all.
    """
    return await _siblings.text() if _siblings else generate_latest(REGISTRY)


@asynccontextmanager
async def exposed(
    settings: AdminSettings,
    collectors: Iterable[Collector] = (),
    others: "WSGIApplication | None" = None,
) -> AsyncIterator[None]:
    """Meanwhile the collectors are asked too, and ADMIN_PORT, where it is set, answers, from
    threads of its own.

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
    app = make_wsgi_app(REGISTRY)
    if others is not None:
        app = _beside(app, others)
    server = _started(
        settings, _guarded(app, Policy(is_for_this_machine=False, hosts=settings.hosts))
    )
    if server is None:
        yield
        return
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)  # waits for its loop's next turn
        server.server_close()


def _started(settings: AdminSettings, app: "WSGIApplication") -> "WSGIServer | None":
    """At the first port that is free: several processes with one environment (`uvicorn --workers`)
    have neighbouring ones.

    None if there is none, which keeps nobody from serving.
    """
    why = ""
    for port in range(settings.port, min(settings.port + _MOST_PROCESSES, 65536)):
        try:
            server = start_server(settings.host, port, app)
        except OSError as error:
            why = why or str(error)
            if error.errno != EADDRINUSE:
                break
        else:
            logger.info("/metrics at %s port %d", settings.host, port)
            return server
    logger.warning(
        "no /metrics at %s port %d (ADMIN_HOST, ADMIN_PORT): %s", settings.host, settings.port, why
    )
    return None


def _beside(metrics: "WSGIApplication", others: "WSGIApplication") -> "WSGIApplication":
    def chosen(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        return (metrics if environ["PATH_INFO"] == "/metrics" else others)(environ, start_response)

    return chosen


def _guarded(app: "WSGIApplication", policy: Policy) -> "WSGIApplication":
    """Refuse web pages of others in a browser, and names that a web page may have made to lead
    here.
    """

    def chosen(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        named = {b"host": "HTTP_HOST", b"origin": "HTTP_ORIGIN"}
        headers = [
            (name, environ[key].encode("latin-1")) for name, key in named.items() if key in environ
        ]
        if why := policy.why_refused(environ.get("REMOTE_ADDR", ""), headers):
            start_response("403 Forbidden", [("content-type", "text/plain; charset=utf-8")])
            return [f"This port is the operator's, so {why} (ADMIN_HOSTS).\n".encode()]
        return app(environ, start_response)

    return chosen
