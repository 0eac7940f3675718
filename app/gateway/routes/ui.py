"""/ui: a page to try the models and to watch them. Its files lie in app/gateway/ui; it loads
nothing from elsewhere.

The page is anybody's, as /docs is: it has no more than whoever sits in front of it is given by /v1
and /admin.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

UI_DIRECTORY = Path(__file__).parents[1] / "ui"
INDEX_FILE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
RESPONSE_HEADERS = {
    # What a model writes is put on the page as text. Should it ever get further, nothing runs and
    # nothing is sent elsewhere.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; "
    "connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # kept, and asked for again each time: a page never has the scripts of another version
    "cache-control": "no-cache",
}


def routes() -> list[BaseRoute]:
    """The page at /ui, and each other file below it."""
    assets = sorted(
        path
        for path in UI_DIRECTORY.iterdir()
        if path.suffix in MEDIA_TYPES and path.name != INDEX_FILE
    )
    return [
        Route("/ui", _make_file_handler(UI_DIRECTORY / INDEX_FILE)),
        *(Route(f"/ui/{path.name}", _make_file_handler(path)) for path in assets),
    ]


async def redirect_to_ui(_: Request) -> Response:
    """Leads there, relatively, as a proxy may serve all of it below a path of its own."""
    return RedirectResponse("ui")


def _make_file_handler(path: Path) -> Callable[[Request], Awaitable[Response]]:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers, media_type = {**RESPONSE_HEADERS, "etag": etag}, MEDIA_TYPES[path.suffix]

    async def serve_file(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    return serve_file
