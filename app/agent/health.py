"""A worker's health at ADMIN_PORT, for Kubernetes' probes: paths and bodies are a gateway's."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route


def health_routes(why_unready: Callable[[], list[str]]) -> list[BaseRoute]:
    """Return GET /healthz (the process lives) and GET /readyz (it takes requests, or why not)."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: Request) -> Response:
        reasons = why_unready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
