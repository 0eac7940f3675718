"""Traces go on from what a traceparent says, and begin where it says nothing."""

import pytest

from app.config.settings import TraceSettings, load_settings
from app.telemetry.tracing import SERVER, Tracer, make_tracer, operation_name
from tests.unit.kept_spans import Kept

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def settings(**environment: str) -> TraceSettings:
    return load_settings(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", **environment}
    ).traces


def tracer(**environment: str) -> Tracer:
    made = make_tracer(settings(**environment), "test")
    assert made is not None
    return made


def test_without_an_endpoint_there_is_no_tracer() -> None:
    assert make_tracer(load_settings({}).traces, "test") is None


def test_a_span_is_the_child_of_what_the_header_names() -> None:
    span = tracer().start_span(SAMPLED)
    assert (span.trace_id, span.parent_id, span.sampled) == (TRACE, PARENT, True)
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-01"
    assert span.span_id != PARENT


def test_a_trace_that_the_client_does_not_keep_is_not_kept() -> None:
    span = tracer().start_span(UNSAMPLED)
    assert not span.sampled
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-00"


@pytest.mark.parametrize(
    ("header", "ignored"),
    [(UNSAMPLED, True), (SAMPLED, False), ("", False), (f"00-{TRACE}-x-00", False)],
)
def test_what_a_client_does_not_keep_is_ignored_unless_the_sampler_asks_nobody(
    header: str, ignored: bool
) -> None:
    assert tracer().should_ignore(header) is ignored
    assert not tracer(OTEL_TRACES_SAMPLER="traceidratio").should_ignore(header)


def test_other_flags_go_on_as_they_came() -> None:
    assert tracer().start_span(f"00-{TRACE}-{PARENT}-03").traceparent.endswith("-03")


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert tracer().start_span(f"01-{TRACE}-{PARENT}-01-more").trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        *(
            "",
            "nonsense",
            f"ff-{TRACE}-{PARENT}-01",
            f"00-{'0' * 32}-{PARENT}-01",
            f"00-{TRACE}-{'0' * 16}-01",
        ),
        *(
            SAMPLED.upper().replace("-01", "-0g"),
            f"00-{TRACE}-{PARENT}",
            f" {SAMPLED}",
            f"{SAMPLED}\n",
        ),
    ],
)
def test_a_header_that_names_nothing_begins_a_trace(header: str) -> None:
    span = tracer().start_span(header)
    assert span.trace_id != TRACE
    assert (span.parent_id, span.sampled) == ("", True)
    assert len({tracer().start_span(header).trace_id for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("share", "least", "most"), [("0", 0, 0), ("1", 1000, 1000), ("0.3", 200, 400)]
)
def test_a_share_of_the_traces_that_begin_here_is_kept(share: str, least: int, most: int) -> None:
    sampling = tracer(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG=share)
    assert least <= sum(sampling.start_span("").sampled for _ in range(1000)) <= most
    assert sampling.start_span(SAMPLED).sampled


@pytest.mark.parametrize(
    ("sampler", "client_keeps", "client_does_not"),
    [
        ("parentbased_always_off", True, False),
        ("always_on", True, True),
        ("always_off", False, False),
    ],
)
def test_whether_the_client_is_asked_is_the_samplers_name(
    sampler: str, client_keeps: bool, client_does_not: bool
) -> None:
    sampling = tracer(OTEL_TRACES_SAMPLER=sampler)
    assert sampling.start_span(SAMPLED).sampled is client_keeps
    assert sampling.start_span(UNSAMPLED).sampled is client_does_not


async def test_what_is_kept_is_exported_without_what_has_no_value() -> None:
    kept, ours = Kept(), tracer()
    ours.end_span(ours.start_span(""), SERVER, "before the start", {})
    ours.start(kept)
    ours.end_span(ours.start_span(UNSAMPLED), SERVER, "not kept", {})
    span = ours.start_span(SAMPLED)
    ours.end_span(
        span, SERVER, "POST /", {"a": 1, "b": "", "c": False, "d": ()}, error_type="timeout"
    )
    await ours.close()
    ours.end_span(span, SERVER, "after the end", {})
    told = kept.one(SERVER)
    assert (told.span, told.name, told.error) == (span, "POST /", "timeout")
    assert told.attributes == {"a": 1, "c": False, "error.type": "timeout"}
    assert kept.closed


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chat"),
        ("/completions?x=1", "text_completion"),
        ("/embeddings", "embeddings"),
        ("/rerank", ""),
    ],
)
def test_operations_have_the_names_of_the_conventions(path: str, name: str) -> None:
    assert operation_name(path) == name
