"""The gateway's spans: of each request that it serves, of each record that it writes. In nobody's
way without a tracer.
"""

from asyncio import Future
from collections.abc import Mapping

from app.bus.base import Place, Sender
from app.errors import AnonymousRefused, InvalidApiKey
from app.gateway.accounting.request_metrics import ENDPOINTS
from app.gateway.http.asgi import App, Message, Receive, Scope, Send, get_header
from app.protocol.records import Headers
from app.telemetry.tracing import PRODUCER, SERVER, Attributes, Span, Tracer, operation_name

_TRACEPARENT_HEADER = "traceparent"
_ROUTES = frozenset(f"/v1/{endpoint}" for endpoint in ENDPOINTS)
_MAX_PATH_CHARS = 300  # characters of a path
_UNAUTHENTICATED_CODES = frozenset({InvalidApiKey.code, AnonymousRefused.code})


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
        traceparent = get_header(scope, _TRACEPARENT_HEADER.encode())
        if self._tracer.should_ignore(traceparent):
            return await self._app(scope, receive, send)
        span = self._tracer.start_span(traceparent)
        other_headers = [
            pair for pair in scope["headers"] if pair[0] != _TRACEPARENT_HEADER.encode()
        ]
        scope["headers"] = [
            *other_headers,
            (_TRACEPARENT_HEADER.encode(), span.traceparent.encode()),
        ]
        scope.pop("first_headers", None)
        if not span.sampled:
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        status = 0

        async def send_wrapper(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_wrapper)
        finally:
            self._end_server_span(span, scope, status, state.get("line", {}))

    def _end_server_span(
        self, span: Span, scope: Scope, status: int, line: Mapping[str, object]
    ) -> None:
        if line.get("code") in _UNAUTHENTICATED_CODES:
            return  # anybody may send as many as they like
        path, route = scope["path"], _route(scope)
        attributes: dict[str, str | int] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "url.path": path[:_MAX_PATH_CHARS],
            "url.scheme": scope.get("scheme", "http"),
            "gen_ai.operation.name": operation_name(path),
            "gen_ai.request.model": _text(line, "model"),
            "llm_gateway.request.id": _text(line, "request_id"),
            "llm_gateway.outcome": _text(line, "outcome"),
        }
        if status:
            attributes["http.response.status_code"] = status
        self._tracer.end_span(
            span,
            SERVER,
            f"{scope['method']} {route}",
            attributes,
            error_type=_error_type(status, line),
        )


def _error_type(status: int, line: Mapping[str, object]) -> str:
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
        traceparent = dict(headers).get(_TRACEPARENT_HEADER, b"").decode()
        if not traceparent or self._tracer.should_ignore(traceparent):
            return self._sender.send(topic, value, key=key, headers=headers, partition=partition)
        span = self._tracer.start_span(traceparent)
        headers = [
            (name, span.traceparent.encode() if name == _TRACEPARENT_HEADER else said)
            for name, said in headers
        ]
        ack = self._sender.send(topic, value, key=key, headers=headers, partition=partition)
        if span.sampled:
            message_attributes: Attributes = {
                "messaging.message.id": key.decode(),
                "messaging.message.body.size": len(value or b""),
            }
            ack.add_done_callback(
                lambda done: self._end_producer_span(span, topic, message_attributes, done)
            )
        return ack

    def _end_producer_span(
        self, span: Span, topic: str, message_attributes: Attributes, ack: "Future[Place]"
    ) -> None:
        failed = ack.cancelled() or ack.exception() is not None
        attributes = {
            "messaging.system": self._system,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            **message_attributes,
        }
        if not failed:
            attributes["messaging.destination.partition.id"] = str(ack.result().partition)
            attributes["messaging.kafka.offset"] = ack.result().offset
        self._tracer.end_span(
            span,
            PRODUCER,
            f"send {topic}",
            attributes,
            error_type="not_acknowledged" if failed else "",
        )
