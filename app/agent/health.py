"""A worker's health at ADMIN_PORT, for Kubernetes' probes: the same two paths and bodies as a
gateway's.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Health:
    """A WSGI application. GET /healthz: the process lives. GET /readyz: it takes requests, or why
    it does not.

    `unready` is called from other threads than the event loop's.
    """

    def __init__(self, unready: Callable[[], list[str]]) -> None:
        self._unready = unready

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        status, body = self._answer(environ["PATH_INFO"])
        start_response(
            status, [("content-type", "application/json"), ("content-length", str(len(body)))]
        )
        return [body]

    def _answer(self, path: str) -> tuple[str, bytes]:
        if path == "/healthz":
            return "200 OK", orjson.dumps({"status": "alive"})
        if path == "/readyz":
            reasons = self._unready()
            status = "503 Service Unavailable" if reasons else "200 OK"
            return status, orjson.dumps({"ready": not reasons, "reasons": reasons})
        return "404 Not Found", orjson.dumps({"paths": ["/healthz", "/readyz", "/metrics"]})
