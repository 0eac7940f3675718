"""Spans as a collector gets them, by the real SDK over HTTP."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app import __version__
from app.config.settings import load_settings
from app.telemetry import otlp, tracing
from app.telemetry.tracing import CLIENT, SERVER, Tracer
from tests.otlp_receiver import receiving

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def batch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All spans go at the close, however long that takes, and each test has the loggers to
    itself.
    """
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # milliseconds
    monkeypatch.setattr(otlp, "_CLOSE_SECONDS", 60.0)
    monkeypatch.setattr(tracing, "_CLOSE_SECONDS", 60.0)
    yield
    for name in otlp._SDK_LOGGERS:
        logging.getLogger(name).filters.clear()


def tracer(endpoint: str, **environment: str) -> Tracer:
    made = Tracer(
        load_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment}).traces, "ours"
    )
    made.start()
    return made


async def test_a_collector_gets_each_span_as_it_was_told() -> None:
    with receiving() as receiver:
        ours = tracer(receiver.url, OTEL_EXPORTER_OTLP_HEADERS="api-key=of%20the%20collector,x=y")
        outer = ours.start_span(PARENT)
        inner = ours.start_span(outer.traceparent)
        ours.end_span(
            inner,
            CLIENT,
            "chat m",
            {"gen_ai.usage.input_tokens": 3, "takeover": True, "reasons": ("stop", "length")},
        )
        ours.end_span(
            outer,
            SERVER,
            "POST /",
            {"http.route": "/"},
            error_type="500",
            end_time_ns=outer.start_time_ns + 5,
        )
        await ours.close()
    (first, second) = sorted(receiver.spans, key=lambda span: span.kind)
    assert (first.service, first.kind, first.name, first.failed) == (
        "ours",
        "CLIENT",
        "chat m",
        False,
    )
    assert first.attributes == {
        "gen_ai.usage.input_tokens": 3,
        "takeover": True,
        "reasons": ["stop", "length"],
    }
    assert (first.trace, first.id, first.parent) == (inner.trace_id, inner.span_id, outer.span_id)
    assert (second.kind, second.parent, second.failed) == ("SERVER", outer.parent_id, True)
    assert (second.began, second.ended) == (outer.start_time_ns, outer.start_time_ns + 5)
    assert second.attributes == {"http.route": "/", "error.type": "500"}
    assert receiver.heads[0]["api-key"] == "of the collector"


async def test_the_service_may_be_called_otherwise_and_the_endpoint_may_be_whole() -> None:
    with receiving() as receiver:
        ours = tracer(f"{receiver.url}/v1/traces", OTEL_SERVICE_NAME="theirs")
        ours.end_span(ours.start_span(""), SERVER, "POST /", {})
        await ours.close()
    (span,) = receiver.spans
    assert (span.service, span.parent) == ("theirs", "")


async def test_a_batch_says_whose_it_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=theirs"
    )
    with receiving() as receiver:
        ours = tracer(receiver.url)
        for _ in range(3):
            ours.end_span(ours.start_span(""), SERVER, "POST /", {})
        await ours.close()
    (body,) = receiver.bodies
    (around,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (scope,) = around.scope_spans
    whose = {pair.key: pair.value.string_value for pair in around.resource.attributes}
    assert (whose["service.name"], whose["service.version"]) == ("ours", __version__)
    assert (whose["deployment.environment.name"], whose["telemetry.sdk.name"]) == (
        "test",
        "opentelemetry",
    )
    assert (scope.scope.name, scope.scope.version, len(scope.spans)) == (
        "llm-gateway",
        __version__,
        3,
    )


@pytest.mark.parametrize("answers", [False, True])
async def test_a_collector_that_does_not_take_them_costs_a_line_and_keeps_nobody(
    answers: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    refusing_port: int,
) -> None:
    monkeypatch.setattr(otlp, "_CLOSE_SECONDS", 0.5)
    with receiving(status=400) as receiver:
        endpoint = receiver.url if answers else f"http://127.0.0.1:{refusing_port}"
        ours = tracer(endpoint, OTEL_EXPORTER_OTLP_HEADERS="k=secret-word")
        caplog.set_level(logging.INFO)
        for _ in range(2000):
            ours.end_span(ours.start_span(""), SERVER, "POST /", {})
            await asyncio.sleep(0)
        await ours.close()
    said = [
        record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")
    ]
    assert 1 <= len(said) <= 6
    assert "secret-word" not in caplog.text
