"""GET /metrics on the gateway's own port, while there is no ADMIN_PORT: for this machine; to others it is not there."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.errors import UnknownUrl
from app.gateway.client import is_local
from app.settings import Settings
from app.telemetry import exposed


def routes(settings: Settings) -> list[BaseRoute]:
    trusted = settings.gateway.trusted_proxies

    def metrics(request: Request) -> Response:
        if not is_local(request.scope, trusted):
            raise UnknownUrl(f"Unknown request URL: GET {request.url.path}")
        return Response(exposed.text(), media_type=exposed.CONTENT_TYPE)

    return [] if settings.admin.port else [Route("/metrics", metrics)]
