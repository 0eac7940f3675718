"""A tracer whose spans a test looks at."""

from dataclasses import dataclass, field

from app.config.settings import load_settings
from app.telemetry.tracing import Attributes, Span, Tracer

CLIENTS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"  # a client's traceparent


@dataclass(frozen=True)
class Told:
    """A span as it was told at its end."""

    span: Span
    kind: str
    name: str
    attributes: dict[str, object]
    error: str
    ended: int

    def __getitem__(self, name: str) -> object:
        return self.attributes[name]


@dataclass
class Kept:
    """An exporter that keeps what it is given."""

    spans: list[Told] = field(default_factory=list)
    closed: bool = False

    def export_span(
        self,
        span: Span,
        kind: str,
        name: str,
        attributes: Attributes,
        error_type: str,
        end_time_ns: int,
    ) -> None:
        assert end_time_ns >= span.start_time_ns
        self.spans.append(Told(span, kind, name, dict(attributes), error_type, end_time_ns))

    def close(self) -> None:
        self.closed = True

    def one(self, kind: str) -> Told:
        """The only one of its kind."""
        (told,) = [told for told in self.spans if told.kind == kind]
        return told


def tracing(**environment: str) -> tuple[Tracer, Kept]:
    """A tracer that has started, and what it keeps."""
    kept = Kept()
    tracer = Tracer(
        load_settings(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", **environment}
        ).traces,
        "test",
    )
    tracer.start(kept)
    return tracer, kept
