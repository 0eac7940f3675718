"""OpenTelemetry's SDK, by which spans get to a collector; imported only where there is one."""

import logging
import threading
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.util.re import parse_env_headers

from app import __version__
from app.settings import TraceSettings
from app.telemetry.logs import Throttle
from app.telemetry.tracing import CONSUMER, SERVER, Attributes, Span

_PATH = "/v1/traces"
_LOG_SECONDS = 10.0
_CLOSE_SECONDS = 4.0  # then no try is made again
_LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_REMOTE = (SERVER, CONSUMER)  # their parents are other processes' spans


class _Given(IdGenerator):
    """Gives the ids of the span that is being written down."""

    span: Span

    def generate_span_id(self) -> int:
        return int(self.span.id, 16)

    def generate_trace_id(self) -> int:
        return int(self.span.trace, 16)


class OtlpExporter:
    """By OTLP over HTTP, in batches, from a thread of its own. What does not get through is dropped, and said now and then."""

    def __init__(self, settings: TraceSettings, service: str) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(Throttle(_LOG_SECONDS))
        headers = parse_env_headers(settings.headers, liberal=True)
        self._sender = OTLPSpanExporter(_address(settings.endpoint), headers=headers or None)
        resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: __version__})
        self._ids = _Given()
        # Ours alone, not the process's global one: nobody else's spans go through it, and it ends when we say so.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(self._sender))
        self._tracer = self._provider.get_tracer("llm-gateway", __version__)

    def export(self, span: Span, kind: str, name: str, attributes: Attributes, error: str, ended: int) -> None:
        parent = set_span_in_context(NonRecordingSpan(_parent(span, kind))) if span.parent else None
        self._ids.span = span
        made = self._tracer.start_span(name, parent, SpanKind[kind], attributes, start_time=span.began)
        if error:
            made.set_status(Status(StatusCode.ERROR))
        made.end(ended)

    def close(self) -> None:
        giving_up = threading.Timer(_CLOSE_SECONDS, self._sender.shutdown)
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()


def _parent(span: Span, kind: str) -> SpanContext:
    return SpanContext(int(span.trace, 16), int(span.parent, 16), kind in _REMOTE, TraceFlags(span.flags))


def _address(endpoint: str) -> str:
    """The endpoint is the collector's; each signal has a path below it."""
    whole = endpoint.rstrip("/")
    return whole if urlsplit(whole).path.endswith(_PATH) else whole + _PATH
