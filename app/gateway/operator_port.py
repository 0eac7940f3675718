"""The operator's pages at ADMIN_PORT: its server has threads and speaks WSGI, the pages live on the
event loop.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Route

from app.gateway.http.asgi import Message, RawHeaders, Scope
from app.gateway.operator.overview import Overview
from app.gateway.routes import operator, ui

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_PATIENCE = 30.0  # seconds for one answer
# the ones that are looked at
_REQUEST_HEADERS = {"HTTP_IF_NONE_MATCH": b"if-none-match", "HTTP_HOST": b"host"}


class OperatorPort:
    """A WSGI application for other threads than that of the loop it was made on. Whoever reaches it
    is asked for no key.
    """

    def __init__(self, overview: Overview) -> None:
        self._loop = asyncio.get_running_loop()
        self._app = Starlette(
            routes=[Route("/admin/overview", operator.overview_route(overview)), *ui.routes()]
        )

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        answer = asyncio.run_coroutine_threadsafe(self._asked(_scope(environ)), self._loop)
        status, headers, body = answer.result(_PATIENCE)
        head = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        start_response(
            f"{status} {HTTPStatus(status).phrase}", [*head, ("x-content-type-options", "nosniff")]
        )
        return [body]

    async def _asked(self, scope: Scope) -> tuple[int, RawHeaders, bytes]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        head, *rest = sent
        return (
            head["status"],
            head["headers"],
            b"".join(message.get("body", b"") for message in rest),
        )


def _scope(environ: "WSGIEnvironment") -> Scope:
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")  # PEP 3333
    return {
        "type": "http",
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (ours, environ[name].encode("latin-1"))
            for name, ours in _REQUEST_HEADERS.items()
            if name in environ
        ],
    }
