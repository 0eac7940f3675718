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
from app.config.models_file import load_embedded_models
from app.config.settings import Settings
from app.config.unknown_settings import find_misspelt_settings
from app.errors import GatewayError, MethodNotAllowed, SettingsError
from app.gateway.access.api_keys_watcher import ApiKeysWatcher
from app.gateway.access.authentication import Authenticator
from app.gateway.access.published_host import apply_published_host
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.async_accounting import AsyncAccounting
from app.gateway.accounting.request_metrics import ModelsCollector, RequestMetrics
from app.gateway.accounting.tracing import TracingMiddleware
from app.gateway.gateway import Gateway
from app.gateway.http.api_dialect import encode_error_body
from app.gateway.http.asgi import App
from app.gateway.http.connection import Connection
from app.gateway.http.cors import with_cors
from app.gateway.http.unknown_url import missing_base_error, unknown_url_error
from app.gateway.middleware import FastPathRouter, RequestMiddleware, ensure_request_id
from app.gateway.openapi import build_document
from app.gateway.operator.dead_letters import DeadLetterReader
from app.gateway.operator.live_requests import LiveRequests
from app.gateway.operator.overview import Overview
from app.gateway.routes import docs, health, models, operator, ui
from app.gateway.routes.inference import InferenceEndpoint
from app.gateway.routes.requests import RequestEndpoints
from app.gateway.signals import drain_on_signal
from app.operator_port import operator_port
from app.process import is_uvicorn_worker, start_in_background_or_exit, tune_garbage_collector
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
    # uvicorn makes the connections
    Connection.stall_timeout_seconds = settings.gateway.client_stall_seconds
    topics = Topics.with_prefix(settings.bus.prefix, settings.bus.reply_topic)
    gateway = Gateway(bus, make_store(settings), settings, tracer)
    authenticator = Authenticator(settings.gateway)
    api_keys_watcher = ApiKeysWatcher(settings.gateway.api_keys_file, authenticator)
    request_metrics = RequestMetrics(gateway.model_registry)
    access_log = AccessLog(
        request_metrics, settings.logs.access_sample_rate, settings.gateway.trusted_proxies
    )
    async_accounting = AsyncAccounting(access_log)
    gateway.async_requests.on_ended = async_accounting.account_request
    live_requests = LiveRequests(gateway, request_metrics.recent_requests)
    gateway.snapshot_requests = live_requests.heartbeat_snapshot
    overview = Overview(gateway, live_requests, access_log, DeadLetterReader(bus, topics.dlq))
    fleet = Fleet(
        bus, settings, [] if settings.bus.is_kafka else load_embedded_models(settings), tracer
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if tracer is not None:
            tracer.start()
        tune_garbage_collector()
        authenticator.warn_if_anonymous()
        startup = asyncio.gather(
            start_in_background_or_exit(_start_components(bus, gateway, fleet)),
            api_keys_watcher.watch(),
        )
        drain_on_signal(gateway.drain)
        collectors = [ModelsCollector(gateway.model_registry), api_keys_watcher]
        views = [Route("/admin/overview", operator.make_overview_handler(overview)), *ui.routes()]
        with registered(collectors):
            async with operator_port(settings.admin, views):
                yield
        startup.cancel()
        await asyncio.gather(startup, return_exceptions=True)
        await gateway.close()
        await async_accounting.close()
        access_log.close()
        await fleet.drain()
        await bus.close()
        if tracer is not None:
            await tracer.close()

    inference = InferenceEndpoint(gateway)
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
        *RequestEndpoints(gateway).routes(),
        *models.routes(gateway),
        *health.routes(gateway),
        *operator.routes(settings, overview),
        Route("/", ui.redirect_to_ui),
        *ui.routes(),
        *docs.routes(
            partial(authenticator.visible_models, model_registry=gateway.model_registry),
            build_document,
        ),
    ]
    fastapi.add_exception_handler(HTTPException, _handle_http_exception)
    # Around the routes, but within Starlette's own last resort, which would answer our errors with
    # a bare 500.
    fastapi.add_middleware(RequestMiddleware, authenticator=authenticator, access_log=access_log)
    fast_path_router = FastPathRouter(
        fastapi, RequestMiddleware(inference, authenticator, access_log)
    )
    return with_cors(
        TracingMiddleware(fast_path_router, tracer) if tracer else fast_path_router,
        settings.gateway.cors_origins,
    )


async def _start_components(bus: Bus, gateway: Gateway, fleet: Fleet) -> None:
    """In the background, so that /healthz and /readyz answer while the log is out of reach."""
    await bus.start()
    fleet.start()
    await gateway.start()
    logger.info("ready")


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    """What routing itself refuses, as OpenAI's error bodies."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "") if error.status_code == 405 else ""
    gateway_error, line = _routing_error(request, allowed), request.state.line
    line["code"] = gateway_error.code
    headers = {"allow": allowed} if gateway_error.status == 405 else {}
    return Response(
        encode_error_body(request.scope, gateway_error),
        gateway_error.status,
        {**headers, **dict(gateway_error.build_headers()), "x-request-id": ensure_request_id(line)},
    )


def _routing_error(request: Request, allowed: str) -> GatewayError:
    """Return a 404, or a 405 where a path of the gateway's own takes other methods (`allowed`).

    Elsewhere below /v1 a method that is not served is a part of OpenAI's API that is not here.
    """
    method, path = request.method, request.url.path
    if f"{path}/".startswith("/v1/") and not f"{path}/".startswith("/v1/requests/"):
        return unknown_url_error(method, path)
    if not allowed:
        return missing_base_error(method, path)
    return MethodNotAllowed(f"{method} is not allowed on {path}; allowed: {allowed}")


def refuse_many_processes(settings: BusSettings) -> None:
    """Each process would have a memory bus of its own, so a request would find no worker in another
    one. Raises SettingsError.

    uvicorn starts a process that ends again and again, so its supervisor is told to end too.
    """
    if settings.is_kafka or not is_uvicorn_worker():
        return
    os.kill(os.getppid(), signal.SIGTERM)
    raise SettingsError(
        "--workers: the memory bus lives in one process; use one worker, or set "
        "BOOTSTRAP_SERVERS to run several on Kafka"
    )


def _application() -> App:
    try:
        settings = apply_published_host(app_settings.load_settings())
        logs.set_up(settings.logs)  # uvicorn's own lines from here on too
        for line in find_misspelt_settings(settings.environment):
            logger.warning("%s", line)
        return make_application(settings)
    except SettingsError as error:
        print(f"llm-gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None


application = _application()
