"""`uvicorn app.main:application`: the gateway; on the memory bus also the workers, in this one
process.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.agent.fleet import Fleet
from app.bus.base import Bus
from app.bus.factory import make_bus
from app.config import settings as app_settings
from app.config.bus_settings import BusSettings
from app.config.models_file import configured
from app.config.settings import Settings
from app.config.unknown_settings import misspelt
from app.errors import GatewayError, MethodNotAllowed, SettingsError
from app.gateway.access.api_keys_watcher import ApiKeysWatcher
from app.gateway.access.authentication import Authenticator
from app.gateway.access.published_host import with_published_host
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.async_accounting import AsyncAccounting
from app.gateway.accounting.request_metrics import ModelsCollector, RequestMetrics
from app.gateway.accounting.tracing import TracingMiddleware
from app.gateway.gateway import Gateway
from app.gateway.http.api_dialect import error_body
from app.gateway.http.asgi import App
from app.gateway.http.connection import Connection
from app.gateway.http.cors import with_cors
from app.gateway.http.unknown_url import unknown_url, without_base
from app.gateway.middleware import FastPathRouter, RequestMiddleware, id_of
from app.gateway.openapi import document
from app.gateway.operator.dead_letters import DeadLetters
from app.gateway.operator.live_requests import LiveRequests
from app.gateway.operator.overview import Overview
from app.gateway.routes import docs, health, models, operator, ui
from app.gateway.routes.inference import Inference
from app.gateway.routes.requests import Requests
from app.gateway.signals import drain_on_signal
from app.operator_port import operator_port
from app.process import shares_its_port, start_or_end, tune_collector
from app.protocol.topics import Topics
from app.stores.factory import make_store
from app.telemetry import logs
from app.telemetry.exposition import registered
from app.telemetry.tracing import make_tracer

logger = logging.getLogger("app.main")


def make_application(settings: Settings) -> App:
    """The ASGI application. Nothing is opened before its lifespan begins. Raises SettingsError."""
    refuse_many_processes(settings.bus)
    bus = make_bus(settings.bus)
    tracer = make_tracer(settings.traces, "llm-gateway")
    Connection.stall_seconds = settings.gateway.client_stall  # uvicorn makes the connections
    topics = Topics.named(settings.bus.prefix, settings.bus.response_topic)
    gateway = Gateway(bus, make_store(settings), settings, tracer)
    keys = Authenticator(settings.gateway)
    keys_file = ApiKeysWatcher(settings.gateway.api_keys_file, keys)
    observed = RequestMetrics(gateway.catalog)
    access_log = AccessLog(observed, settings.logs.access_sample, settings.gateway.trusted_proxies)
    async_accounting = AsyncAccounting(access_log)
    gateway.asynchronous.ended = async_accounting.ended
    activity = LiveRequests(gateway, observed.recent)
    gateway.shown = activity.told
    overview = Overview(gateway, activity, access_log, DeadLetters(bus, topics.dlq))
    fleet = Fleet(bus, settings, [] if settings.bus.on_kafka else configured(settings), tracer)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if tracer is not None:
            tracer.start()
        tune_collector()
        keys.warn()
        running = asyncio.gather(start_or_end(_start(bus, gateway, fleet)), keys_file.watch())
        drain_on_signal(gateway.drain)
        collectors = [ModelsCollector(gateway.catalog), keys_file]
        views = [Route("/admin/overview", operator.overview_route(overview)), *ui.routes()]
        with registered(collectors):
            async with operator_port(settings.admin, views):
                yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await gateway.close()
        await async_accounting.close()
        access_log.close()
        await fleet.drain()
        await bus.close()
        if tracer is not None:
            await tracer.close()

    inference = Inference(gateway)
    fastapi = FastAPI(
        title="LLM gateway",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        # ours sees the hot path too
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    fastapi.router.routes += [
        *Requests(gateway).routes(),
        *models.routes(gateway),
        *health.routes(gateway),
        *operator.routes(settings, overview),
        Route("/", ui.home),
        *ui.routes(),
        *docs.routes(partial(keys.visible_models, catalog=gateway.catalog), document),
    ]
    fastapi.add_exception_handler(HTTPException, _refuse)
    # Around the routes, but within Starlette's own last resort, which would answer our errors with
    # a bare 500.
    fastapi.add_middleware(RequestMiddleware, keys=keys, access_log=access_log)
    entrance = FastPathRouter(fastapi, RequestMiddleware(inference, keys, access_log))
    return with_cors(
        TracingMiddleware(entrance, tracer) if tracer else entrance, settings.gateway.cors_origins
    )


async def _start(bus: Bus, gateway: Gateway, fleet: Fleet) -> None:
    """In the background, so that /healthz and /readyz answer while the log is out of reach."""
    await bus.start()
    fleet.start()
    await gateway.start()
    logger.info("ready")


async def _refuse(request: Request, error: Exception) -> Response:
    """What routing itself refuses, as OpenAI's error bodies."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "") if error.status_code == 405 else ""
    ours, line = _refusal(request, allowed), request.state.line
    line["code"] = ours.code
    headers = {"allow": allowed} if ours.status == 405 else {}
    return Response(
        error_body(request.scope, ours),
        ours.status,
        {**headers, **dict(ours.head()), "x-request-id": id_of(line)},
    )


def _refusal(request: Request, allowed: str) -> GatewayError:
    """Return a 404, or a 405 where a path of the gateway's own takes other methods (`allowed`).

    Elsewhere below /v1 a method that is not served is a part of OpenAI's API that is not here.
    """
    method, path = request.method, request.url.path
    if f"{path}/".startswith("/v1/") and not f"{path}/".startswith("/v1/requests/"):
        return unknown_url(method, path)
    if not allowed:
        return without_base(method, path)
    return MethodNotAllowed(f"{method} is not allowed on {path}; allowed: {allowed}")


def refuse_many_processes(settings: BusSettings) -> None:
    """Each process would have a memory bus of its own, so a request would find no worker in another
    one. Raises SettingsError.

    uvicorn starts a process that ends again and again, so its supervisor is told to end too.
    """
    if settings.on_kafka or not shares_its_port():
        return
    os.kill(os.getppid(), signal.SIGTERM)
    raise SettingsError(
        "--workers: the memory bus lives in one process; use one worker, or set "
        "BOOTSTRAP_SERVERS to run several on Kafka"
    )


def _application() -> App:
    try:
        settings = with_published_host(app_settings.load())
        logs.set_up(settings.logs)  # uvicorn's own lines from here on too
        for line in misspelt(settings.environment):
            logger.warning("%s", line)
        return make_application(settings)
    except SettingsError as error:
        print(f"llm-gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None


application = _application()
