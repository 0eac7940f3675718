"""A collector of traces: it takes what comes by OTLP over HTTP and keeps the spans, for tests to
look at.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class Received:
    """A span. Ids are hexadecimal, times nanoseconds since the epoch."""

    service: str
    kind: str
    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


@dataclass
class Receiver:
    """`heads` and `bodies` are what came, `status` is what it is answered."""

    port: int = 0
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace: str) -> list[Received]:
        """A trace's spans in the order of their beginnings."""
        return sorted(
            (span for span in self.spans if span.trace == trace), key=lambda span: span.began
        )

    def has(self, trace: str, *kinds: str) -> bool:
        """Whether a trace has at least one span of each of these kinds, and as many as they are
        named.
        """
        found = [span.kind for span in self.of(trace)]
        return all(found.count(kind) >= kinds.count(kind) for kind in kinds)

    def take(self, path: str, head: dict[str, str], body: bytes) -> int:
        if path != "/v1/traces" or head.get("content-type") != "application/x-protobuf":
            return 404
        self.heads.append(head)
        self.bodies.append(body)
        if self.status == 200:
            self.spans += decoded(body)
        return self.status


def decoded(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _received(service, span)


def _received(service: str, span: Span) -> Received:
    return Received(
        service=service,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return (
        [_value(each) for each in value.array_value.values]
        if kind == "array_value"
        else getattr(value, kind)
    )


@contextmanager
def receiving(status: int = 200) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answered = receiver.take(
                self.path, {name.lower(): value for name, value in self.headers.items()}, body
            )
            self.send_response(answered)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
