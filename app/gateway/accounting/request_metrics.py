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
from app.telemetry.tally import CounterChild, HistogramChild

OTHER = "other"
ENDPOINTS = ("chat/completions", "completions", "embeddings", "responses", "messages")

_ENDPOINT_BY_PATH = {f"/v1/{endpoint}": endpoint for endpoint in ENDPOINTS}
_CLIENT_LEFT_STATUS = 499  # nginx's: the client has closed the connection before there was a status


class _ModelMetrics(NamedTuple):
    """Looked up once: `labels()` costs more than the counting."""

    duration: HistogramChild
    first_token: HistogramChild
    output_token: HistogramChild
    queue: HistogramChild
    input_tokens: CounterChild
    output_tokens: CounterChild

    @classmethod
    def for_model(cls, model: str) -> "_ModelMetrics":
        return cls(
            metrics.DURATION.labels(model),
            metrics.TIME_TO_FIRST_TOKEN.labels(model),
            metrics.TIME_PER_OUTPUT_TOKEN.labels(model),
            metrics.QUEUE_TIME.labels(model),
            metrics.TOKENS.labels(model, "input"),
            metrics.TOKENS.labels(model, "output"),
        )


def endpoint_of(path: str) -> str:
    """One of ENDPOINTS, or OTHER; `path` begins with /v1."""
    return _ENDPOINT_BY_PATH.get(path, OTHER)


class RequestMetrics:
    """Counts requests, and keeps the last. Called with a path, a status (0: none was sent) and the
    access line's members.
    """

    def __init__(self, model_registry: ModelRegistry) -> None:
        self._model_registry = model_registry
        self.recent_requests = RecentRequests()
        self._request_counters: dict[tuple[str, str, int, str], CounterChild] = {}
        self._metrics_by_model: dict[str, _ModelMetrics] = {}

    def __call__(self, path: str, status: int, line: Mapping[str, object]) -> None:
        outcome = line.get("outcome")
        model_state = self._model_registry.find(str(line.get("model", "")))
        model = model_state.card.model if model_state else ""
        outcome_label = str(outcome) if outcome else _label_without_outcome(line)
        labels = (
            model,
            _ENDPOINT_BY_PATH.get(path, OTHER),
            status or _CLIENT_LEFT_STATUS,
            outcome_label,
        )
        self._count_request(labels)
        if "model" in line:
            self.recent_requests.add_request((time.time(), labels, line))
        if "code" in line:
            metrics.REFUSALS.labels(str(line["code"] or "")).inc()
        if outcome:
            self._observe_request(
                self._metrics_by_model.get(model) or self._add_model_metrics(model), line
            )

    def _count_request(self, labels: tuple[str, str, int, str]) -> None:
        counter = self._request_counters.get(labels)
        if counter is None:
            counter = self._request_counters[labels] = metrics.REQUESTS.labels(*labels)
        counter.inc()

    def _add_model_metrics(self, model: str) -> _ModelMetrics:
        model_metrics = self._metrics_by_model[model] = _ModelMetrics.for_model(model)
        return model_metrics

    def _observe_request(self, model_metrics: _ModelMetrics, line: Mapping[str, object]) -> None:
        total_ms = _positive_number(line, "total_ms")
        model_metrics.duration.observe(total_ms / 1000)
        if "queue_ms" in line:
            model_metrics.queue.observe(_positive_number(line, "queue_ms") / 1000)
        if "prompt_tokens" in line:
            model_metrics.input_tokens.inc(_positive_number(line, "prompt_tokens"))
        tokens = _positive_number(line, "completion_tokens")
        model_metrics.output_tokens.inc(tokens)
        if "ttft_ms" in line:
            ttft_ms = _positive_number(line, "ttft_ms")
            model_metrics.first_token.observe(ttft_ms / 1000)
            if tokens > 1 and line["outcome"] == COMPLETED:
                model_metrics.output_token.observe((total_ms - ttft_ms) / 1000 / (tokens - 1))


def _label_without_outcome(line: Mapping[str, object]) -> str:
    """Of a request that has no outcome here."""
    if "code" in line:
        return "refused"
    return "left" if "client" in line else OTHER


def _positive_number(line: Mapping[str, object], name: str) -> float:
    """What an upstream calls its usage may be anything."""
    value = line.get(name)
    return value if isinstance(value, (int, float)) and value > 0 else 0.0


class ModelsCollector(Collector):
    """Queue and workers of each known model, at the moment of asking."""

    def __init__(self, model_registry: ModelRegistry) -> None:
        self._model_registry = model_registry

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, so that the registry need not collect to know them."""
        yield from map(
            metrics.gauge_family,
            (metrics.QUEUE_DEPTH, metrics.WORKERS, metrics.CAPACITY, metrics.IN_FLIGHT),
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth, workers, capacity, in_flight = families = list(self.describe())
        for live_state in self._model_registry.all():
            # a heartbeat may come: who asks is another thread
            model_state = replace(live_state, workers=dict(live_state.workers))
            model = [model_state.card.model]
            depth.add_metric(model, model_state.queue_depth)
            workers.add_metric(model, len(model_state.serving))
            capacity.add_metric(model, model_state.capacity)
            in_flight.add_metric(model, model_state.in_flight)
        yield from families
