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

ASSET_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_ASSET_HEADERS = {"cache-control": "public, max-age=3600"}
# it has a field for the key
_PAGE_HEADERS = {"x-frame-options": "DENY", "content-security-policy": "frame-ancestors 'none'"}
_SWAGGER_PARAMETERS = {
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "defaultModelsExpandDepth": 0,
    "validatorUrl": None,  # else the page would send the document to a server on the internet
}


def routes(
    get_visible_models: Callable[[Scope], tuple[str, ...]],
    build_document: Callable[[list[str]], dict[str, Any]],
) -> list[BaseRoute]:
    """Return the page, its assets and the document.

    `get_visible_models` gives the ids of the models that a caller may see. One document is kept for
    each such set.
    """

    @lru_cache(maxsize=16)
    def render_document(models: tuple[str, ...]) -> tuple[bytes, str]:
        body = orjson.dumps(build_document([*models]))
        return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    async def serve_openapi(request: Request) -> Response:
        body, tag = render_document(get_visible_models(request.scope))
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    return [
        Route("/docs", _serve_page),
        *(
            Route(f"/docs/{name}", _make_asset_handler(name, kind))
            for name, kind in ASSET_MEDIA_TYPES.items()
        ),
        Route("/openapi.json", serve_openapi),
    ]


def _render_page() -> bytes:
    # Relative addresses: the page also works where a proxy serves it below a path of its own.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="LLM gateway",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        swagger_ui_parameters=_SWAGGER_PARAMETERS,
    )
    return bytes(page.body)


_PAGE = _render_page()


async def _serve_page(_: Request) -> Response:
    return Response(_PAGE, media_type="text/html", headers=_PAGE_HEADERS)


def _make_asset_handler(name: str, media_type: str) -> Callable[[Request], Any]:
    body = (files("fastapi_swagger.resources") / name).read_bytes()

    async def serve_asset(_: Request) -> Response:
        return Response(body, media_type=media_type, headers=_ASSET_HEADERS)

    return serve_asset
