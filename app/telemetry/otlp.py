"""OpenTelemetry's SDK, by which spans get to a collector; imported only where there is one.

It batches and sends. A span's bytes are made by app.telemetry.otlp_wire as soon as it has ended.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.util.re import parse_env_headers

from app import __version__
from app.config.settings import TraceSettings
from app.telemetry import otlp_wire
from app.telemetry.logs import Throttle
from app.telemetry.tracing import Attributes, Span

_TRACES_PATH = "/v1/traces"
_LOG_INTERVAL_SECONDS = 10.0
_CLOSE_SECONDS = 4.0  # then no try is made again
_SDK_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_SAMPLED_CONTEXT = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


class _EncodedSpan(bytes):
    """A span's bytes, with what BatchSpanProcessor asks of a span: whether it is sampled. Others do
    not come here.
    """

    context = _SAMPLED_CONTEXT


class _EncodedSpanExporter(OTLPSpanExporter):
    """The SDK's exporter, for spans that are bytes already.

    Its HTTP client (retries, TLS, compression, time limits, as the environment says) has no public
    name. The versions are pinned, and tests/contract/test_otlp.py notices if it goes by another.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], resource: Resource) -> None:
        super().__init__(endpoint, headers=headers or None)
        self._resource, self._scope = _encode_envelopes(resource)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._shutdown:
            return SpanExportResult.FAILURE
        body = otlp_wire.request(self._resource, self._scope, cast(Sequence[bytes], spans))
        return (
            SpanExportResult.SUCCESS
            if self._client.export(body).success
            else SpanExportResult.FAILURE
        )


class OtlpExporter:
    """By OTLP over HTTP, in batches, from a thread of its own. What does not get through is
    dropped, and said now and then.
    """

    def __init__(self, settings: TraceSettings, service: str) -> None:
        for name in _SDK_LOGGERS:
            logging.getLogger(name).addFilter(Throttle(_LOG_INTERVAL_SECONDS))
        headers = parse_env_headers(settings.headers, liberal=True)
        resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: __version__})
        self._sdk_exporter = _EncodedSpanExporter(_traces_url(settings.endpoint), headers, resource)
        self._batch_processor = BatchSpanProcessor(self._sdk_exporter)

    def export_span(
        self,
        span: Span,
        kind: str,
        name: str,
        attributes: Attributes,
        error_type: str,
        end_time_ns: int,
    ) -> None:
        encoded_span = _EncodedSpan(
            otlp_wire.span_field(span, kind, name, attributes, bool(error_type), end_time_ns)
        )
        self._batch_processor.on_end(cast(ReadableSpan, encoded_span))

    def close(self) -> None:
        shutdown_timer = threading.Timer(_CLOSE_SECONDS, self._sdk_exporter.shutdown)
        shutdown_timer.start()
        self._batch_processor.shutdown()  # type: ignore[no-untyped-call]
        shutdown_timer.cancel()


def _encode_envelopes(resource: Resource) -> tuple[bytes, bytes]:
    """What stands around each batch, as the SDK writes it: a ResourceSpans and a ScopeSpans, both
    empty.
    """
    span = ReadableSpan(
        "",
        _SAMPLED_CONTEXT,
        resource=resource,
        instrumentation_scope=InstrumentationScope("llm-gateway", __version__),
    )
    (resource_spans,) = encode_spans([span]).resource_spans
    (scope_spans,) = resource_spans.scope_spans
    scope_spans.ClearField("spans")
    scope_bytes = scope_spans.SerializeToString()
    resource_spans.ClearField("scope_spans")
    return resource_spans.SerializeToString(), scope_bytes


def _traces_url(endpoint: str) -> str:
    """The endpoint is the collector's; each signal has a path below it."""
    url = endpoint.rstrip("/")
    return url if urlsplit(url).path.endswith(_TRACES_PATH) else url + _TRACES_PATH
