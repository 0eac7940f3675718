"""GET /metrics and /admin/overview: the operator's views. 404 for callers without access."""

from collections.abc import Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.config.settings import Settings
from app.errors import UnknownUrl
from app.gateway.access.operator_access import Operators
from app.gateway.operator.overview import Overview
from app.process import is_uvicorn_worker
from app.telemetry.exposition import CONTENT_TYPE, metrics_text

_NOT_KEPT = {"cache-control": "no-store"}


def routes(settings: Settings, overview: Overview) -> list[BaseRoute]:
    """Those of the gateway's own port, while there is no ADMIN_PORT: for its own machine, or with
    an operator's key.
    """
    if settings.admin.port:
        return []
    operators = Operators(settings.gateway)

    async def metrics(request: Request) -> Response:
        _refuse_unless_admitted(operators, request)
        if is_uvicorn_worker():
            raise UnknownUrl(
                "Each of several processes (--workers) counts for itself: with ADMIN_PORT each has"
                " /metrics at a port of its own."
            )
        return Response(metrics_text(), media_type=CONTENT_TYPE)

    shown = overview_route(overview)

    async def guarded(request: Request) -> Response:
        _refuse_unless_admitted(operators, request)
        return await shown(request)

    return [Route("/metrics", metrics), Route("/admin/overview", guarded)]


def overview_route(overview: Overview) -> Callable[[Request], Awaitable[Response]]:
    """The view for whoever comes here."""

    async def shown(_request: Request) -> Response:
        return Response(
            orjson.dumps(await overview.snapshot()),
            media_type="application/json",
            headers=_NOT_KEPT,
        )

    return shown


def _refuse_unless_admitted(operators: Operators, request: Request) -> None:
    if not operators.admits(request.scope):
        raise UnknownUrl(f"Unknown request URL: {request.method} {request.url.path}")
