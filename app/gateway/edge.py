"""The outermost layers, pure ASGI: one base path, errors as OpenAI's bodies, keys, one access line per request."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TypeAlias

from app.contracts.fold import COMPLETED
from app.errors import GatewayError, InternalError
from app.gateway.asgi import App, ClientGone, Message, Receive, Scope, Send, header, send_error
from app.gateway.auth import Keys

Observe: TypeAlias = Callable[[str, int, dict[str, object]], None]

logger = logging.getLogger("app.gateway")
access = logging.getLogger("app.access")

# No key of a caller's asked. What is the operator's asks by itself who comes.
_OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json", "/ui", "/metrics", "/admin")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # a model may write HTML; no browser is to take a reply for a page
_SHOWN = 300  # characters of a path in the access line
_UNLOGGED = ("/healthz", "/readyz", "/metrics", "/admin", "/ui/")


class Entrance:
    """Sends the hot path past the router and its middleware; one base path for both."""

    def __init__(self, app: App, inference: App) -> None:
        self._app = app
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            if scope["path"].startswith("/api/v1/"):
                scope["path"] = scope["path"][4:]
                scope["raw_path"] = scope.get("raw_path", b"")[4:]
            path = scope["path"]
            if scope["method"] == "POST" and path.startswith("/v1/") and not path.startswith("/v1/requests/"):
                app = self._inference
        await app(scope, receive, send)


class Edge:
    """Wraps an application.

    It finds in scope["state"] the "caller" and its "tenant", and leaves in ["line"] what the access line adds, in ["grant"] what
    it has taken of the caller's limits. `observe` is told of each request at its end: its path, its status (0: none was sent),
    its line. `sample` is the share of requests that went well whose line is written; all others have theirs.
    """

    def __init__(self, app: App, keys: Keys, observe: Observe | None = None, sample: float = 1.0) -> None:
        self._app = app
        self._keys = keys
        self._observe = observe
        self._sample = sample

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["began"] = began = time.monotonic()
        line: dict[str, object] = {}
        state["line"] = line
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                if "grant" in state:
                    headers = state["grant"].headed(headers)
                message = {**message, "headers": [*headers, _NO_SNIFFING]}
            await send(message)

        try:
            if not scope["path"].startswith(_OPEN):
                state["caller"] = caller = self._keys.caller(scope)
                state["tenant"] = caller.tenant
            await self._app(scope, receive, sending)
        except ClientGone:
            line["client"] = "gone"
        except GatewayError as error:
            line["code"] = error.code
            await self._error(error, status, sending)
        except Exception:  # whatever it is, the client gets an error body and the log the trace
            logger.exception("unexpected error on %s", scope["path"])
            await self._error(InternalError("the gateway failed; its log says why"), status, sending)
        finally:
            if "grant" in state:
                await state["grant"].settle(line, status)
        if not scope["path"].startswith(_UNLOGGED):
            line["total_ms"] = round((time.monotonic() - began) * 1000, 1)
            # What was sent leaves at the end of the loop's turn (uvloop), so the client need not wait for the line as well.
            asyncio.get_running_loop().call_soon(self._log, scope, status, line)

    async def _error(self, error: GatewayError, status: int, send: Send) -> None:
        if status:  # the head is gone: nothing can be said any more but by breaking off
            raise error
        await send_error(send, error)

    def _log(self, scope: Scope, status: int, line: dict[str, object]) -> None:
        client_id = header(scope, b"x-request-id") or header(scope, b"x-client-request-id")
        if client_id:
            line["client_request_id"] = client_id[:128]
        if self._observe is not None:
            self._observe(scope["path"], status, line)
        if self._sample < 1 and _went_well(status, line) and random.random() >= self._sample:
            return
        access.info("%s %s %s", scope["method"], scope["path"][:_SHOWN], status or "-", extra=line)


def _went_well(status: int, line: dict[str, object]) -> bool:
    """A stream may have begun well and ended otherwise, and a client may have left."""
    return 0 < status < 400 and line.get("outcome", COMPLETED) == COMPLETED and "code" not in line and "client" not in line
