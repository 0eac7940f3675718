"""Every metric, declared once with its sentence; docs/operating/metrics.md lists them, and a test
holds the two together.

Names follow OpenTelemetry's conventions where there is one
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), ours begin with llm_gateway_.
No label has a value that a client chooses: a model is the model's id, an endpoint one of a few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily

from app.telemetry.tally import LockFreeCounter, LockFreeHistogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each of ours, which nobody looks at

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# Seconds: from what a small model needs, or none at all, to the longest deadlines.
_DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_QUEUE_TIME_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
)
# As the conventions advise, without their finest steps.
_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120)
_OUTPUT_TOKEN_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
)


@dataclass(frozen=True)
class MetricDeclaration:
    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str


DECLARATIONS: list[MetricDeclaration] = []


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    DECLARATIONS.append(MetricDeclaration(name, "counter", labels, documentation))
    return Counter(name, documentation, labels, registry=REGISTRY)


def _lock_free_counter(name: str, documentation: str, *labels: str) -> LockFreeCounter:
    """A counter of each request."""
    DECLARATIONS.append(MetricDeclaration(name, "counter", labels, documentation))
    counter = LockFreeCounter(name, documentation, labels)
    REGISTRY.register(counter)
    return counter


def _histogram(
    name: str, documentation: str, bounds: Sequence[float], *labels: str
) -> LockFreeHistogram:
    DECLARATIONS.append(MetricDeclaration(name, "histogram", labels, documentation))
    histogram = LockFreeHistogram(name, documentation, labels, bounds)
    REGISTRY.register(histogram)
    return histogram


def _gauge(name: str, documentation: str, *labels: str) -> MetricDeclaration:
    """One that is read when somebody asks; `gauge_family` makes it what a collector yields."""
    declaration = MetricDeclaration(name, "gauge", labels, documentation)
    DECLARATIONS.append(declaration)
    return declaration


def gauge_family(gauge: MetricDeclaration) -> GaugeMetricFamily:
    return GaugeMetricFamily(gauge.name, gauge.documentation, labels=gauge.labels)


# The gateway: each request, at its end.

REQUESTS = _lock_free_counter(
    "llm_gateway_requests_total",
    "Requests that have been answered, or whose client has left (status 499); "
    "outcome is the request's own, or `refused` "
    "(an error of the gateway's), `left` (its client) or `other`.",
    "model",
    "endpoint",
    "status",
    "outcome",
)
REFUSALS = _counter(
    "llm_gateway_refusals_total",
    "Requests that the gateway answered with an error of its own, by the error's "
    "code: rate_limit_exceeded is a key's limit, "
    "queue_full a model's, tenant_queue_full a tenant's share of it.",
    "code",
)
LIMITS_UNCOUNTED = _counter(
    "llm_gateway_limits_uncounted_total",
    "Requests whose caller has limits that could not be looked up, as Redis was "
    "away: served all the same, or refused where "
    "LIMITS_FAIL_OPEN is 0.",
)
DURATION = _histogram(
    "gen_ai_server_request_duration_seconds",
    "From a request's head to the end of its reply.",
    _DURATION_BUCKETS,
    "gen_ai_request_model",
)
TIME_TO_FIRST_TOKEN = _histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From a streamed request's head to the first part of its reply, the queue included.",
    _FIRST_TOKEN_BUCKETS,
    "gen_ai_request_model",
)
TIME_PER_OUTPUT_TOKEN = _histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Of a completed stream whose usage is known: the time after its first part, "
    "divided by the tokens after the first.",
    _OUTPUT_TOKEN_BUCKETS,
    "gen_ai_request_model",
)
QUEUE_TIME = _histogram(
    "llm_gateway_queue_seconds",
    "From the moment a request was written to the log until a worker began it.",
    _QUEUE_TIME_BUCKETS,
    "model",
)
TOKENS = _lock_free_counter(
    "llm_gateway_tokens_total",
    "Tokens of completed requests whose usage is known; type is input or output.",
    "model",
    "type",
)
ENDED_BY_GATEWAY = _counter(
    "llm_gateway_ended_total",
    "Requests that this gateway ended: cancelled because the client left or asked "
    "for it, expired at their deadline.",
    "model",
    "outcome",
)
BULK_LANE_REQUESTS = _counter(
    "llm_gateway_crowded_total",
    "Requests that were put into the crowd's half of the partitions, because much of "
    "what waits is their tenant's, or because "
    "their key's priority is low.",
    "model",
)

# The gateway: what it knows of the models, whenever it is asked.

QUEUE_DEPTH = _gauge(
    "llm_gateway_queue_depth", "Requests that wait for a worker of the model.", "model"
)
WORKERS = _gauge("llm_gateway_workers", "Workers of the model that take requests.", "model")
CAPACITY = _gauge("llm_gateway_capacity", "Requests that those workers run at once.", "model")
IN_FLIGHT = _gauge("llm_gateway_in_flight", "Requests that the model's workers run now.", "model")

# The gateway: whether what it was told is in force.

KEYS_FILE_IN_FORCE = _gauge(
    "llm_gateway_keys_file_in_force",
    "Only where API_KEYS_FILE is set; 1: its keys as it stands are in force, 0: it "
    "cannot be read or has a fault, and the keys "
    "of before are.",
)

# The worker.

TAKEOVERS = _counter(
    "llm_gateway_takeovers_total", "Requests that this worker took over from another.", "model"
)
UPSTREAM_RETRIES = _counter(
    "llm_gateway_upstream_retries_total",
    "Tries after the first of a request: the upstream was busy, out of reach, or broke off.",
    "model",
)
UPSTREAM_ERRORS = _counter(
    "llm_gateway_upstream_errors_total",
    "What the upstream did wrong, retries apart: kind is 4xx or 5xx (its status), "
    "unreachable, or broken (it broke off).",
    "model",
    "kind",
)
DEAD_LETTERS = _counter(
    "llm_gateway_dead_letters_total", "Records that this worker put into the dead letters.", "model"
)
REBALANCES = _counter(
    "llm_gateway_rebalances_total", "Changes of the partitions that this worker has.", "model"
)
