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

FILES = Path(__file__).parents[1] / "ui"
PAGE = "index.html"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
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
    assets = sorted(path for path in FILES.iterdir() if path.suffix in KINDS and path.name != PAGE)
    return [
        Route("/ui", _served(FILES / PAGE)),
        *(Route(f"/ui/{path.name}", _served(path)) for path in assets),
    ]


async def home(_: Request) -> Response:
    """Leads there, relatively, as a proxy may serve all of it below a path of its own."""
    return RedirectResponse("ui")


def _served(path: Path) -> Callable[[Request], Awaitable[Response]]:
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers, kind = {**HEADERS, "etag": tag}, KINDS[path.suffix]

    async def file(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return file
