"""The outermost layer, pure ASGI: one base path, errors as OpenAI's bodies, keys, one access line per request."""

import logging
import time

from app.errors import GatewayError, InternalError
from app.gateway.asgi import App, ClientGone, Message, Receive, Scope, Send, header, send_error
from app.gateway.auth import Keys

logger = logging.getLogger("app.gateway")
access = logging.getLogger("app.access")

_OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")  # no key asked
_SHOWN = 300  # characters of a path in the access line
_UNLOGGED = ("/healthz", "/readyz")


class Edge:
    """Wraps the router and, beside it, the inference application.

    Both find the tenant in scope["state"]["tenant"], and leave in ["line"] what the access line adds.
    """

    def __init__(self, app: App, inference: App, keys: Keys) -> None:
        self._app = app
        self._inference = inference
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith("/api/v1/"):
            scope["path"] = scope["path"][4:]
            scope["raw_path"] = scope.get("raw_path", b"")[4:]
        await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        state = scope.setdefault("state", {})
        line: dict[str, object] = {}
        state["line"] = line
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not scope["path"].startswith(_OPEN):
                state["tenant"] = self._keys.tenant(header(scope, b"authorization"))
            await self._route(scope)(scope, receive, sending)
        except ClientGone:
            line["client"] = "gone"
        except GatewayError as error:
            line["code"] = error.code
            await self._error(error, status, sending)
        except Exception:  # whatever it is, the client gets an error body and the log the trace
            logger.exception("unexpected error on %s", scope["path"])
            await self._error(InternalError("the gateway failed; its log says why"), status, sending)
        if not scope["path"].startswith(_UNLOGGED):
            self._log(scope, status, began, line)

    def _route(self, scope: Scope) -> App:
        """The hot path goes past the router."""
        path = scope["path"]
        hot = scope["method"] == "POST" and path.startswith("/v1/") and not path.startswith("/v1/requests/")
        return self._inference if hot else self._app

    async def _error(self, error: GatewayError, status: int, send: Send) -> None:
        if status:  # the head is gone: nothing can be said any more but by breaking off
            raise error
        await send_error(send, error)

    def _log(self, scope: Scope, status: int, began: float, line: dict[str, object]) -> None:
        client_id = header(scope, b"x-request-id") or header(scope, b"x-client-request-id")
        line["total_ms"] = round((time.monotonic() - began) * 1000, 1)
        if client_id:
            line["client_request_id"] = client_id[:128]
        access.info("%s %s %s", scope["method"], scope["path"][:_SHOWN], status or "-", extra=line)
