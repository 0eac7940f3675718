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

from app.config.parsers import without_userinfo
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
_SAMPLED = 1
_CLOSE_SECONDS = 5.0  # a collector that is out of reach keeps nobody from ending

logger = logging.getLogger("app.telemetry.traces")


@dataclass(slots=True)
class Span:
    """One that has begun. `began` is nanoseconds since the epoch, ids are hexadecimal, `parent` is
    empty for a trace's first.
    """

    trace: str
    id: str
    parent: str
    flags: int
    began: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        """For whoever does the next part of the work."""
        return f"00-{self.trace}-{self.id}-{self.flags:02x}"


class Exporter(Protocol):
    """Takes spans and sends them by itself, off the event loop."""

    def export(
        self, span: Span, kind: str, name: str, attributes: Attributes, error: str, ended: int
    ) -> None: ...

    def close(self) -> None:
        """Sends what is left. Blocking."""


class Tracer:
    """`service` names the process where OTEL_SERVICE_NAME does not. Before `start` and after
    `close` spans are forgotten.
    """

    def __init__(self, settings: TraceSettings, service: str) -> None:
        self._settings = settings
        self._service = settings.service or service
        self._exporter: Exporter | None = None
        share = {"on": 1.0, "off": 0.0}.get(settings.sampler.rpartition("_")[2], settings.share)
        self._bound = int(share * 2**64)
        self._honours_parent = settings.sampler.startswith("parentbased_")

    def start(self, exporter: Exporter | None = None) -> None:
        """Imports OpenTelemetry and begins to export."""
        if exporter is None:
            from app.telemetry.otlp import OtlpExporter

            exporter = OtlpExporter(self._settings, self._service)
            logger.info("traces go to %s", without_userinfo(self._settings.endpoint))
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

    def ignores(self, traceparent: str) -> bool:
        """Whether it names a trace that is not kept: then what does the next part of the work just
        gets it as well.
        """
        found = _TRACEPARENT.fullmatch(traceparent) if self._honours_parent else None
        return found is not None and not int(found[3], 16) & _SAMPLED

    def begin(self, traceparent: str) -> Span:
        """The child of what a `traceparent` names; the first of a new trace where it names
        nothing.
        """
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            trace, parent, flags = f"{random.getrandbits(128) or 1:032x}", "", None
        else:
            trace, parent, said = found.groups()
            flags = int(said, 16)
        if flags is None or not self._honours_parent:
            flags = _SAMPLED if int(trace[16:], 16) < self._bound else 0
        return Span(trace, f"{random.getrandbits(64) or 1:016x}", parent, flags, _now())

    def end(
        self,
        span: Span,
        kind: str,
        name: str,
        attributes: Attributes,
        *,
        error: str = "",
        ended: int = 0,
    ) -> None:
        """`error` says in a word what went wrong; attributes without a value are left out. `ended`:
        now, if it is 0.
        """
        if self._exporter is not None and span.sampled:
            if not all(attributes.values()):  # a number or a False is a value
                attributes = {
                    key: value for key, value in attributes.items() if value or value == 0
                }
            if error:
                attributes = {**attributes, "error.type": error}
            self._exporter.export(span, kind, name, attributes, error, ended or _now())


def _now() -> int:
    return int(time.time() * 1e9)


def make_tracer(settings: TraceSettings, service: str) -> Tracer | None:
    """None unless there is somewhere to send spans to."""
    return Tracer(settings, service) if settings.endpoint else None


def operation(path: str) -> str:
    """gen_ai.operation.name of an API path, with or without its /v1; empty for one that the
    conventions have no word for.
    """
    return _OPERATIONS.get(path.partition("?")[0].removeprefix("/v1").strip("/"), "")
