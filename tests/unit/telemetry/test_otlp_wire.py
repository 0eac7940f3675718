"""Spans in OTLP's bytes are what the official classes read, and what the SDK's own encoder
writes.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from app.telemetry import otlp_wire
from app.telemetry.tracing import CLIENT, CONSUMER, INTERNAL, PRODUCER, SERVER, Attributes, Span

TRACE, ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
KINDS = (SERVER, PRODUCER, CONSUMER, CLIENT, INTERNAL)
BEGAN, ENDED = 1_700_000_000_000_000_001, 1_700_000_000_000_000_007
RESOURCE, SCOPE = (
    Resource({"service.name": "ours", "process.pid": 7}, "https://schema.example"),
    InstrumentationScope("s", "1.2"),
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
whole = st.integers(-(2**63), 2**63 - 1)
values = texts | st.booleans() | whole | st.floats(allow_nan=False) | st.lists(texts).map(tuple)


def ours(
    attributes: Attributes,
    kind: str = SERVER,
    parent: str = PARENT,
    name: str = "POST /",
    failed: bool = False,
) -> bytes:
    span = Span(TRACE, ID, parent, 1, BEGAN)
    return otlp_wire.span_field(span, kind, name, attributes, failed, ENDED)


def said(field: bytes) -> trace_pb2.Span:
    (span,) = trace_pb2.ScopeSpans.FromString(field).spans
    return span


def by_sdk(
    attributes: Attributes,
    kind: str = SERVER,
    parent: str = PARENT,
    name: str = "POST /",
    failed: bool = False,
) -> ExportTraceServiceRequest:
    """The request of a batch of one, as the SDK makes it of such a span."""
    remote = kind in (SERVER, CONSUMER)
    span = ReadableSpan(
        name,
        SpanContext(int(TRACE, 16), int(ID, 16), is_remote=False),
        SpanContext(int(TRACE, 16), int(parent, 16), is_remote=remote) if parent else None,
        RESOURCE,
        attributes,
        kind=SpanKind[kind],
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=BEGAN,
        end_time=ENDED,
        instrumentation_scope=SCOPE,
    )
    return encode_spans([span])


def sdks(*span: object, **more: object) -> trace_pb2.Span:
    (one,) = by_sdk(*span, **more).resource_spans[0].scope_spans[0].spans  # type: ignore[arg-type]
    return one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parent", [PARENT, ""])
@pytest.mark.parametrize("failed", [False, True])
def test_a_span_has_the_very_bytes_of_the_sdks_encoder(
    kind: str, parent: str, failed: bool
) -> None:
    attributes: Attributes = {
        "http.route": "/",
        "takeover": False,
        "offset": 5_000_000_000,
        "share": 0.25,
        "reasons": ("stop", "length"),
    }
    made = ours(attributes, kind, parent, "send é", failed)
    theirs = sdks(attributes, kind, parent, "send é", failed)
    assert made == trace_pb2.ScopeSpans(spans=[theirs]).SerializeToString()
    assert (said(made).flags, said(made).parent_span_id.hex()) == (theirs.flags, parent)


@given(st.dictionaries(texts.filter(bool), values, max_size=6), texts)
@example(
    {"low": -(2**63), "high": 2**63 - 1, "minus": -1, "none": 0, "zero": 0.0, "far": float("-inf")},
    "",
)
@example({"empty": "", "nobody": (), "blank": ("",), "long": "ü" * 70_000}, "n" * 200)
@example({"same": True}, "")
@example({"same": 1}, "")
@example({"same": 1.0}, "")
@example({"same": "1"}, "")
@example({"same": ("1",)}, "")
def test_values_of_all_types_are_said_as_the_sdk_says_them(
    attributes: Attributes, name: str
) -> None:
    for _ in range(2):  # the second time from what was kept
        assert said(ours(attributes, name=name)) == sdks(attributes, name=name)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64])
def test_an_integer_beyond_64_bits_is_left_out_as_the_sdk_leaves_it_out(number: int) -> None:
    made = said(ours({"before": 1, "tokens": number, "after": 2}))
    assert [pair.key for pair in made.attributes] == ["before", "after"]
    assert made == sdks({"before": 1, "tokens": number, "after": 2})


@pytest.mark.parametrize("time", [-1, 2**64, 10**30])
def test_a_time_that_is_none_costs_nobody_the_span(time: int) -> None:
    made = said(
        otlp_wire.span_field(Span(TRACE, ID, "", 1, time), SERVER, "POST /", {"a": 1}, False, time)
    )
    assert (made.name, made.start_time_unix_nano) == ("POST /", made.end_time_unix_nano)


def test_half_a_surrogate_pair_costs_a_character_not_the_span() -> None:
    made = said(ours({"path": "/\ud800/"}, name="a\udfffb"))
    assert (made.attributes[0].value.string_value, made.name) == ("/?/", "a?b")


def test_a_value_that_is_of_no_such_type_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        ours({"x": None})  # type: ignore[dict-item]


@pytest.mark.parametrize("count", [0, 1, 2, 600])
def test_a_batch_has_its_resource_and_scope_around_it(count: int) -> None:
    theirs = by_sdk({"http.route": "/"})
    (around,) = theirs.resource_spans
    scope = trace_pb2.ScopeSpans(scope=around.scope_spans[0].scope)
    resource = trace_pb2.ResourceSpans(resource=around.resource, schema_url=around.schema_url)
    made = otlp_wire.request(
        resource.SerializeToString(), scope.SerializeToString(), [ours({"http.route": "/"})] * count
    )
    (span,) = around.scope_spans[0].spans
    around.scope_spans[0].ClearField("spans")
    around.scope_spans[0].spans.extend([span] * count)
    assert ExportTraceServiceRequest.FromString(made) == theirs


def test_what_never_comes_again_does_not_fill_the_memory() -> None:
    calls = []
    kept = otlp_wire.Kept(lambda number: calls.append(number) or b"x" * (number % 7))
    for number in range(otlp_wire.MOST * 3):
        assert kept[number,] == b"x" * (number % 7)
        assert kept[0,] == b""
    assert len(kept) <= otlp_wire.MOST
    assert calls.count(0) <= 5


def test_long_words_are_not_kept() -> None:
    kept = otlp_wire.Kept(lambda text: text)
    assert kept[b"x" * 5000,] == b"x" * 5000
    assert not kept
