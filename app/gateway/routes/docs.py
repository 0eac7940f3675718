"""/docs (Swagger UI) and /openapi.json. The page's assets come from a package, so it works with no
internet.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.gateway.http.asgi import Scope

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_KEPT = {"cache-control": "public, max-age=3600"}
# it has a field for the key
_UNFRAMED = {"x-frame-options": "DENY", "content-security-policy": "frame-ancestors 'none'"}
_PARAMETERS = {
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "defaultModelsExpandDepth": 0,
    "validatorUrl": None,  # else the page would send the document to a server on the internet
}


def routes(
    models_for: Callable[[Scope], tuple[str, ...]], document: Callable[[list[str]], dict[str, Any]]
) -> list[BaseRoute]:
    """Return the page, its assets and the document.

    `models_for` gives the ids of the models that a caller may see. One document is kept for each
    such set.
    """

    @lru_cache(maxsize=16)
    def rendered(models: tuple[str, ...]) -> tuple[bytes, str]:
        body = orjson.dumps(document([*models]))
        return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    async def openapi(request: Request) -> Response:
        body, tag = rendered(models_for(request.scope))
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    return [
        Route("/docs", _page),
        *(Route(f"/docs/{name}", _asset(name, kind)) for name, kind in ASSETS.items()),
        Route("/openapi.json", openapi),
    ]


def _page_bytes() -> bytes:
    # Relative addresses: the page also works where a proxy serves it below a path of its own.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="LLM gateway",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        swagger_ui_parameters=_PARAMETERS,
    )
    return bytes(page.body)


_PAGE = _page_bytes()


async def _page(_: Request) -> Response:
    return Response(_PAGE, media_type="text/html", headers=_UNFRAMED)


def _asset(name: str, kind: str) -> Callable[[Request], Any]:
    body = (files("fastapi_swagger.resources") / name).read_bytes()

    async def asset(_: Request) -> Response:
        return Response(body, media_type=kind, headers=_KEPT)

    return asset
