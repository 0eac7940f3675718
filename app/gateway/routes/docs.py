"""/docs (Swagger UI) and /openapi.json. The page's assets come from a package, so it works with no internet."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import orjson
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_KEPT = {"cache-control": "public, max-age=3600"}
_UNFRAMED = {"x-frame-options": "DENY", "content-security-policy": "frame-ancestors 'none'"}  # it has a field for the key
_PARAMETERS = {
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "defaultModelsExpandDepth": 0,
    "validatorUrl": None,  # else the page would send the document to a server on the internet
}


def routes(document: Callable[[], dict[str, Any]]) -> list[BaseRoute]:
    """The page, its assets and the document; `document` is asked at each request, as models come and go."""

    async def openapi(_: Request) -> Response:
        return Response(orjson.dumps(document()), media_type="application/json")

    return [
        Route("/docs", _page),
        *(Route(f"/docs/{name}", _asset(name, kind)) for name, kind in ASSETS.items()),
        Route("/openapi.json", openapi),
    ]


async def _page(_: Request) -> Response:
    # Relative addresses: the page also works where a proxy serves it below a path of its own.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="LLM gateway",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        swagger_ui_parameters=_PARAMETERS,
    )
    page.headers.update(_UNFRAMED)
    return page


def _asset(name: str, kind: str) -> Callable[[Request], Any]:
    async def asset(_: Request) -> Response:
        return FileResponse(str(files("fastapi_swagger.resources") / name), media_type=kind, headers=_KEPT)

    return asset
