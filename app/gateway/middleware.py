"""The outermost layers, pure ASGI: one base path, errors as OpenAI's bodies, keys, one access line
per request.
"""

import logging
import time

from app.errors import ClientGone, GatewayError, InternalError
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.http.api_dialect import (
    add_request_id_header,
    encode_error_body,
    is_anthropic_request,
)
from app.gateway.http.asgi import App, Message, Receive, Scope, Send, send_error
from app.gateway.http.unknown_url import refuse_websocket
from app.protocol.request_id import new_refused_id

logger = logging.getLogger("app.gateway")

# No key of a caller's asked. What is the operator's asks by itself who comes.
_KEYLESS_PREFIXES = ("/healthz", "/readyz", "/docs", "/openapi.json", "/ui", "/metrics", "/admin")
# A model may write HTML, and an upstream may send it: no browser is to take a reply for a page of
# this origin.
_NOSNIFF_HEADERS = ((b"x-content-type-options", b"nosniff"),)
_SANDBOX_HEADERS = (*_NOSNIFF_HEADERS, (b"content-security-policy", b"sandbox; default-src 'none'"))


class FastPathRouter:
    """Sends the hot path past the router and its middleware; one base path for both.

    What it takes off the path is in scope["state"]["base"], for addresses that the client is told.
    """

    def __init__(self, app: App, inference: App) -> None:
        self._app = app
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            if scope["path"].startswith("/api/v1/"):
                scope["path"] = scope["path"][4:]
                scope["raw_path"] = scope.get("raw_path", b"")[4:]
                scope.setdefault("state", {})["base"] = "/api"
            path = scope["path"]
            if (
                scope["method"] == "POST"
                and path.startswith("/v1/")
                and not f"{path}/".startswith("/v1/requests/")
            ):
                app = self._inference
        elif scope["type"] == "websocket":
            app = refuse_websocket
        await app(scope, receive, send)


class RequestMiddleware:
    """Wraps an application.

    It finds in scope["state"] the "caller" and its "tenant", and leaves in ["line"] what the access
    line adds, in ["grant"] what it has taken of the caller's limits. With ["handed_over"] the
    request goes on without its connection, and another tells its end.
    """

    def __init__(self, app: App, authenticator: Authenticator, access_log: AccessLog) -> None:
        self._app = app
        self._authenticator = authenticator
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["began"] = started_at = time.monotonic()
        line: dict[str, object] = {}
        state["line"] = line
        status = 0
        security_headers = _SANDBOX_HEADERS if scope["path"].startswith("/v1") else _NOSNIFF_HEADERS

        async def send_wrapper(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                if is_anthropic_request(scope):
                    headers = add_request_id_header(headers)
                if "grant" in state:
                    headers = state["grant"].add_limit_headers(headers)
                message = {**message, "headers": [*headers, *security_headers]}
            await send(message)

        try:
            if scope["path"] != "/" and not scope["path"].startswith(_KEYLESS_PREFIXES):
                state["caller"] = caller = self._authenticator.authenticate(scope)
                line["tenant"] = state["tenant"] = caller.tenant
            await self._app(scope, receive, send_wrapper)
        except ClientGone:
            line["client"] = "gone"
        except GatewayError as error:
            await self._send_error(error, scope, status, send_wrapper)
        except Exception:  # whatever it is, the client gets an error body and the log the trace
            logger.exception(
                "unexpected error on %s",
                scope["path"],
                extra={"request_id": ensure_request_id(line)},
            )
            await self._send_error(
                InternalError("the gateway failed; its log says why"), scope, status, send_wrapper
            )
        finally:
            if "handed_over" not in state:
                if "grant" in state:
                    await state["grant"].settle(line, status)
                line["total_ms"] = round((time.monotonic() - started_at) * 1000, 1)
                self._access_log.log_request(scope, status, line)

    async def _send_error(self, error: GatewayError, scope: Scope, status: int, send: Send) -> None:
        line = scope["state"]["line"]
        line["code"] = error.code
        if status:  # the head is gone: nothing can be said any more but by breaking off
            raise error
        await send_error(send, error, ensure_request_id(line), body=encode_error_body(scope, error))


def ensure_request_id(line: dict[str, object]) -> str:
    """The request's id in its access line; it gets one that is nowhere else if it was not
    accepted.
    """
    line["request_id"] = request_id = str(line.get("request_id") or new_refused_id())
    return request_id
