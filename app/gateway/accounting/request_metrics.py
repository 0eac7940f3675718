"""What the metrics say of requests and models: each request once, at its end, from its access line;
models when asked.

The operator's view has the last requests from here too.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.cluster.model_registry import ModelRegistry
from app.gateway.accounting.recent_requests import RecentRequests
from app.protocol.reply_state import COMPLETED
from app.telemetry import metrics
from app.telemetry.tally import Count, Spread

OTHER = "other"
ENDPOINTS = ("chat/completions", "completions", "embeddings", "responses", "messages")

_BY_PATH = {f"/v1/{endpoint}": endpoint for endpoint in ENDPOINTS}
_LEFT_STATUS = 499  # nginx's: the client has closed the connection before there was a status


class _OfModel(NamedTuple):
    """Looked up once: `labels()` costs more than the counting."""

    duration: Spread
    first: Spread
    each: Spread
    queue: Spread
    tokens_in: Count
    tokens_out: Count

    @classmethod
    def make(cls, model: str) -> "_OfModel":
        return cls(
            metrics.DURATION.labels(model),
            metrics.FIRST_TOKEN.labels(model),
            metrics.OUTPUT_TOKEN.labels(model),
            metrics.QUEUE.labels(model),
            metrics.TOKENS.labels(model, "input"),
            metrics.TOKENS.labels(model, "output"),
        )


def endpoint_of(path: str) -> str:
    """One of ENDPOINTS, or OTHER; `path` begins with /v1."""
    return _BY_PATH.get(path, OTHER)


class RequestMetrics:
    """Counts requests, and keeps the last. Called with a path, a status (0: none was sent) and the
    access line's members.
    """

    def __init__(self, catalog: ModelRegistry) -> None:
        self._catalog = catalog
        self.recent = RecentRequests()
        self._requests: dict[tuple[str, str, int, str], Count] = {}
        self._models: dict[str, _OfModel] = {}

    def __call__(self, path: str, status: int, line: Mapping[str, object]) -> None:
        outcome = line.get("outcome")
        known = self._catalog.find(str(line.get("model", "")))
        model = known.card.model if known else ""
        ended = str(outcome) if outcome else _without(line)
        labels = (model, _BY_PATH.get(path, OTHER), status or _LEFT_STATUS, ended)
        self._count(labels)
        if "model" in line:
            self.recent.keep((time.time(), labels, line))
        if "code" in line:
            metrics.REFUSALS.labels(str(line["code"] or "")).inc()
        if outcome:
            self._measure(self._models.get(model) or self._of(model), line)

    def _count(self, labels: tuple[str, str, int, str]) -> None:
        counter = self._requests.get(labels)
        if counter is None:
            counter = self._requests[labels] = metrics.REQUESTS.labels(*labels)
        counter.inc()

    def _of(self, model: str) -> _OfModel:
        found = self._models[model] = _OfModel.make(model)
        return found

    def _measure(self, of: _OfModel, line: Mapping[str, object]) -> None:
        whole = _number(line, "total_ms")
        of.duration.observe(whole / 1000)
        if "queue_ms" in line:
            of.queue.observe(_number(line, "queue_ms") / 1000)
        if "prompt_tokens" in line:
            of.tokens_in.inc(_number(line, "prompt_tokens"))
        tokens = _number(line, "completion_tokens")
        of.tokens_out.inc(tokens)
        if "ttft_ms" in line:
            first = _number(line, "ttft_ms")
            of.first.observe(first / 1000)
            if tokens > 1 and line["outcome"] == COMPLETED:
                of.each.observe((whole - first) / 1000 / (tokens - 1))


def _without(line: Mapping[str, object]) -> str:
    """Of a request that has no outcome here."""
    if "code" in line:
        return "refused"
    return "left" if "client" in line else OTHER


def _number(line: Mapping[str, object], name: str) -> float:
    """What an upstream calls its usage may be anything."""
    value = line.get(name)
    return value if isinstance(value, (int, float)) and value > 0 else 0.0


class ModelsCollector(Collector):
    """Queue and workers of each known model, at the moment of asking."""

    def __init__(self, catalog: ModelRegistry) -> None:
        self._catalog = catalog

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, so that the registry need not collect to know them."""
        yield from map(
            metrics.family,
            (metrics.QUEUE_DEPTH, metrics.WORKERS, metrics.CAPACITY, metrics.IN_FLIGHT),
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth, workers, capacity, in_flight = families = list(self.describe())
        for changing in self._catalog.all():
            # a heartbeat may come: who asks is another thread
            known = replace(changing, workers=dict(changing.workers))
            model = [known.card.model]
            depth.add_metric(model, known.queue_depth)
            workers.add_metric(model, len(known.serving))
            capacity.add_metric(model, known.capacity)
            in_flight.add_metric(model, known.in_flight)
        yield from families
