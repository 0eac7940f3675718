"""Traces: a request's way as spans, each written down when it has ended, from times that are known
by then.

Nothing of OpenTelemetry is imported here, nor anywhere unless OTEL_EXPORTER_OTLP_ENDPOINT is set:
only then is there a Tracer. A span's ids are ours, made before it is told of, so that what comes
next in the request's way can be its child. https://www.w3.org/TR/trace-context/ ,
https://opentelemetry.io/docs/specs/semconv/
"""

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from app.config.parsers import redact_url
from app.config.settings import TraceSettings

Attributes: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...]]

# kinds of spans
SERVER, PRODUCER, CONSUMER, CLIENT, INTERNAL = (
    "SERVER",
    "PRODUCER",
    "CONSUMER",
    "CLIENT",
    "INTERNAL",
)
CHAT, TEXT, EMBEDDINGS = "chat", "text_completion", "embeddings"  # of gen_ai.operation.name

_OPERATIONS = {
    "chat/completions": CHAT,
    "responses": CHAT,
    "messages": CHAT,
    "completions": TEXT,
    "embeddings": EMBEDDINGS,
}
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SAMPLED_FLAG = 1
_CLOSE_SECONDS = 5.0  # a collector that is out of reach keeps nobody from ending

logger = logging.getLogger("app.telemetry.traces")


@dataclass(slots=True)
class Span:
    """One that has begun. `start_time_ns` is nanoseconds since the epoch, ids are hexadecimal,
    `parent_id` is empty for a trace's first.
    """

    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    start_time_ns: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & _SAMPLED_FLAG)

    @property
    def traceparent(self) -> str:
        """For whoever does the next part of the work."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


class SpanExporter(Protocol):
    """Takes spans and sends them by itself, off the event loop."""

    def export_span(
        self,
        span: Span,
        kind: str,
        name: str,
        attributes: Attributes,
        error_type: str,
        end_time_ns: int,
    ) -> None: ...

    def close(self) -> None:
        """Sends what is left. Blocking."""


class Tracer:
    """`service_name` names the process where OTEL_SERVICE_NAME does not. Before `start` and after
    `close` spans are forgotten.
    """

    def __init__(self, settings: TraceSettings, service_name: str) -> None:
        self._settings = settings
        self._service_name = settings.service_name or service_name
        self._exporter: SpanExporter | None = None
        share = {"on": 1.0, "off": 0.0}.get(
            settings.sampler.rpartition("_")[2], settings.sample_ratio
        )
        self._sampling_bound = int(share * 2**64)
        self._is_parent_based = settings.sampler.startswith("parentbased_")

    def start(self, exporter: SpanExporter | None = None) -> None:
        """Imports OpenTelemetry and begins to export."""
        if exporter is None:
            from app.telemetry.otlp import OtlpExporter

            exporter = OtlpExporter(self._settings, self._service_name)
            logger.info("traces go to %s", redact_url(self._settings.endpoint))
        self._exporter = exporter

    async def close(self) -> None:
        """Sends what is left, for as long as that is not too long."""
        exporter, self._exporter = self._exporter, None
        if exporter is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            exporter.close()
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=send, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await done.wait()

    def should_ignore(self, traceparent: str) -> bool:
        """Whether it names a trace that is not kept: then what does the next part of the work just
        gets it as well.
        """
        found = _TRACEPARENT.fullmatch(traceparent) if self._is_parent_based else None
        return found is not None and not int(found[3], 16) & _SAMPLED_FLAG

    def start_span(self, traceparent: str) -> Span:
        """The child of what a `traceparent` names; the first of a new trace where it names
        nothing.
        """
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            trace_id, parent_id, flags = f"{random.getrandbits(128) or 1:032x}", "", None
        else:
            trace_id, parent_id, flags_hex = found.groups()
            flags = int(flags_hex, 16)
        if flags is None or not self._is_parent_based:
            flags = _SAMPLED_FLAG if int(trace_id[16:], 16) < self._sampling_bound else 0
        return Span(trace_id, f"{random.getrandbits(64) or 1:016x}", parent_id, flags, _now_ns())

    def end_span(
        self,
        span: Span,
        kind: str,
        name: str,
        attributes: Attributes,
        *,
        error_type: str = "",
        end_time_ns: int = 0,
    ) -> None:
        """`error_type` says in a word what went wrong; attributes without a value are left out.
        `end_time_ns`: now, if it is 0.
        """
        if self._exporter is not None and span.sampled:
            if not all(attributes.values()):  # a number or a False is a value
                attributes = {
                    key: value for key, value in attributes.items() if value or value == 0
                }
            if error_type:
                attributes = {**attributes, "error.type": error_type}
            self._exporter.export_span(
                span, kind, name, attributes, error_type, end_time_ns or _now_ns()
            )


def _now_ns() -> int:
    return int(time.time() * 1e9)


def make_tracer(settings: TraceSettings, service_name: str) -> Tracer | None:
    """None unless there is somewhere to send spans to."""
    return Tracer(settings, service_name) if settings.endpoint else None


def operation_name(path: str) -> str:
    """gen_ai.operation.name of an API path, with or without its /v1; empty for one that the
    conventions have no word for.
    """
    return _OPERATIONS.get(path.partition("?")[0].removeprefix("/v1").strip("/"), "")
