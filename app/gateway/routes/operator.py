"""GET /metrics and /admin/overview: the operator's views. 404 for callers without access."""

from collections.abc import Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.config.settings import Settings
from app.errors import UnknownUrl
from app.gateway.access.operator_access import OperatorAccess
from app.gateway.operator.overview import Overview
from app.process import is_uvicorn_worker
from app.telemetry.exposition import CONTENT_TYPE, metrics_text

_NO_STORE_HEADERS = {"cache-control": "no-store"}


def routes(settings: Settings, overview: Overview) -> list[BaseRoute]:
    """Those of the gateway's own port, while there is no ADMIN_PORT: for its own machine, or with
    an operator's key.
    """
    if settings.admin.port:
        return []
    operator_access = OperatorAccess(settings.gateway)

    async def serve_metrics(request: Request) -> Response:
        _refuse_unless_allowed(operator_access, request)
        if is_uvicorn_worker():
            raise UnknownUrl(
                "Each of several processes (--workers) counts for itself: with ADMIN_PORT each has"
                " /metrics at a port of its own."
            )
        return Response(metrics_text(), media_type=CONTENT_TYPE)

    serve_overview = make_overview_handler(overview)

    async def serve_guarded_overview(request: Request) -> Response:
        _refuse_unless_allowed(operator_access, request)
        return await serve_overview(request)

    return [Route("/metrics", serve_metrics), Route("/admin/overview", serve_guarded_overview)]


def make_overview_handler(overview: Overview) -> Callable[[Request], Awaitable[Response]]:
    """The view for whoever comes here."""

    async def serve_overview(_request: Request) -> Response:
        return Response(
            orjson.dumps(await overview.snapshot()),
            media_type="application/json",
            headers=_NO_STORE_HEADERS,
        )

    return serve_overview


def _refuse_unless_allowed(operator_access: OperatorAccess, request: Request) -> None:
    if not operator_access.is_allowed(request.scope):
        raise UnknownUrl(f"Unknown request URL: {request.method} {request.url.path}")
