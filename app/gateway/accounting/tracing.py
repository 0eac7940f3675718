"""The gateway's spans: of each request that it serves, of each record that it writes. In nobody's
way without a tracer.
"""

from asyncio import Future
from collections.abc import Mapping

from app.bus.base import Place, Sender
from app.errors import AnonymousRefused, InvalidApiKey
from app.gateway.accounting.request_metrics import ENDPOINTS
from app.gateway.http.asgi import App, Message, Receive, Scope, Send, header
from app.protocol.records import Headers
from app.telemetry.tracing import PRODUCER, SERVER, Attributes, Span, Tracer, operation

_HEADER = "traceparent"
_ROUTES = frozenset(f"/v1/{endpoint}" for endpoint in ENDPOINTS)
_SHOWN = 300  # characters of a path
_UNAUTHENTICATED = frozenset({InvalidApiKey.code, AnonymousRefused.code})


class TracingMiddleware:
    """Wraps the application: the client's trace goes on, or one begins; what is below finds our
    span in the request's head.
    """

    def __init__(self, app: App, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(("/v1/", "/api/v1/")):
            return await self._app(scope, receive, send)
        carried = header(scope, _HEADER.encode())
        if self._tracer.ignores(carried):
            return await self._app(scope, receive, send)
        span = self._tracer.begin(carried)
        others = [pair for pair in scope["headers"] if pair[0] != _HEADER.encode()]
        scope["headers"] = [*others, (_HEADER.encode(), span.traceparent.encode())]
        scope.pop("first_headers", None)
        if not span.sampled:
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            self._served(span, scope, status, state.get("line", {}))

    def _served(self, span: Span, scope: Scope, status: int, line: Mapping[str, object]) -> None:
        if line.get("code") in _UNAUTHENTICATED:
            return  # anybody may send as many as they like
        path, route = scope["path"], _route(scope)
        attributes: dict[str, str | int] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "url.path": path[:_SHOWN],
            "url.scheme": scope.get("scheme", "http"),
            "gen_ai.operation.name": operation(path),
            "gen_ai.request.model": _text(line, "model"),
            "llm_gateway.request.id": _text(line, "request_id"),
            "llm_gateway.outcome": _text(line, "outcome"),
        }
        if status:
            attributes["http.response.status_code"] = status
        self._tracer.end(
            span, SERVER, f"{scope['method']} {route}", attributes, error=_error(status, line)
        )


def _error(status: int, line: Mapping[str, object]) -> str:
    """For a server's span a 4xx is no error: it is the client's."""
    if line.get("client") == "gone":
        return "client_gone"
    failed = status >= 500 or not status or line.get("outcome") in ("failed", "expired")
    return (_text(line, "code") or (str(status) if status >= 500 else "failed")) if failed else ""


def _text(line: Mapping[str, object], name: str) -> str:
    return str(line.get(name) or "")


def _route(scope: Scope) -> str:
    """The path's pattern, of which there are few."""
    known = getattr(scope.get("route"), "path", "")
    return known or (scope["path"] if scope["path"] in _ROUTES else "/v1/{path}")


class TracingSender:
    """Sends, with a span for each record that carries a trace; the record carries that span on."""

    def __init__(self, sender: Sender, tracer: Tracer, system: str) -> None:
        self._sender = sender
        self._tracer = tracer
        self._system = system

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        carried = dict(headers).get(_HEADER, b"").decode()
        if not carried or self._tracer.ignores(carried):
            return self._sender.send(topic, value, key=key, headers=headers, partition=partition)
        span = self._tracer.begin(carried)
        headers = [
            (name, span.traceparent.encode() if name == _HEADER else said) for name, said in headers
        ]
        sent = self._sender.send(topic, value, key=key, headers=headers, partition=partition)
        if span.sampled:
            about: Attributes = {
                "messaging.message.id": key.decode(),
                "messaging.message.body.size": len(value or b""),
            }
            sent.add_done_callback(lambda done: self._sent(span, topic, about, done))
        return sent

    def _sent(self, span: Span, topic: str, about: Attributes, done: "Future[Place]") -> None:
        failed = done.cancelled() or done.exception() is not None
        attributes = {
            "messaging.system": self._system,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            **about,
        }
        if not failed:
            attributes["messaging.destination.partition.id"] = str(done.result().partition)
            attributes["messaging.kafka.offset"] = done.result().offset
        self._tracer.end(
            span, PRODUCER, f"send {topic}", attributes, error="not_acknowledged" if failed else ""
        )
