"""/metrics: on the admin port, or the text of it for a port that is somebody else's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, start_http_server
from prometheus_client.registry import Collector

from app.settings import AdminSettings
from app.telemetry.metrics import REGISTRY

logger = logging.getLogger("app.telemetry")

CONTENT_TYPE = CONTENT_TYPE_LATEST


def text() -> bytes:
    """Every metric, as Prometheus reads it (CONTENT_TYPE)."""
    return generate_latest(REGISTRY)


@asynccontextmanager
async def exposed(settings: AdminSettings, collectors: Iterable[Collector] = ()) -> AsyncIterator[None]:
    """Meanwhile the collectors are asked too, and ADMIN_PORT, where it is set, answers, from a thread of its own."""
    async with AsyncExitStack() as stack:
        for collector in collectors:
            REGISTRY.register(collector)
            stack.callback(REGISTRY.unregister, collector)
        if settings.port:
            await stack.enter_async_context(_served(settings))
        yield


@asynccontextmanager
async def _served(settings: AdminSettings) -> AsyncIterator[None]:
    """A port that is taken stops nobody: of several processes with one environment the first has it."""
    try:
        server, _ = start_http_server(settings.port, settings.host, REGISTRY)
    except OSError as error:
        logger.warning("no /metrics at %s port %d (ADMIN_HOST, ADMIN_PORT): %s", settings.host, settings.port, error)
        yield
        return
    logger.info("/metrics at %s port %d", settings.host, settings.port)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)  # waits for its loop's next turn
        server.server_close()
