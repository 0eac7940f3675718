"""Whether a request is taken: the gateway serves, the model is known, its queue is not too long;
and whose queue it is.

A tenant is a crowd while it has many requests waiting, or most of all that wait. What it sends then
goes to one half of the partitions (app/protocol/lanes.py) and is refused where the queue is full;
all others pass it by in the other half.
"""

import math
from collections.abc import Callable, Iterable

from app.cluster.model_registry import ModelRegistry, ModelState
from app.config.gateway_settings import GatewaySettings
from app.errors import (
    BusUnavailable,
    Draining,
    ModelNotFound,
    QueueFull,
    TenantQueueFull,
    UpstreamLoop,
)
from app.inference.reply_consumer import ReplyConsumer
from app.inference.submission import Submission
from app.telemetry.metrics import BULK_LANE_REQUESTS

_RETRY_AFTER_SECONDS = 5.0  # while no rate is known
_SHOWN = 200  # characters of an unknown model's name: it may be as large as the body


class Admission:
    def __init__(
        self, catalog: ModelRegistry, inbox: ReplyConsumer, settings: GatewaySettings
    ) -> None:
        self._catalog = catalog
        self._inbox = inbox
        self._most = settings.max_queue_depth
        self._most_of_tenant = settings.max_tenant_queue_depth or math.inf
        self._few_of_tenant = settings.soft_max_tenant_queue_depth
        self.deployment = ""  # names the log this gateway writes to
        self.unready = "starting"  # why no request is admitted; empty when they are
        self.draining = False

    def admit(self, submission: Submission) -> tuple[ModelState, bool]:
        """The model that the request is for, and whether it goes to the crowd's half. Raises
        GatewayError.
        """
        self.refuse_if_closed()
        if self.deployment in submission.hops.split(","):
            raise UpstreamLoop(
                "this request has come back through the gateway's own upstream: OPENAI_HOST (or "
                "a model's host in MODELS_FILE)"
                " points at this gateway"
            )
        known = self.model(submission.model)
        crowd = self._is_crowd(known, submission)
        if crowd:
            BULK_LANE_REQUESTS.labels(known.card.model).inc()
        return known, crowd

    def refuse_if_closed(self) -> None:
        """Raises Draining, and BusUnavailable while this gateway has no reply partition yet."""
        if self.draining:
            raise Draining(
                "this gateway is being stopped; send the request again", retry_after_seconds=1
            )
        self.refuse_if_unready()

    def refuse_if_unready(self) -> None:
        """Raises BusUnavailable while this gateway does not know the log's models and requests."""
        if self.unready:
            raise BusUnavailable(f"not ready: {self.unready}", retry_after_seconds=1)

    def model(self, name: str) -> ModelState:
        """Raises ModelNotFound."""
        known = self._catalog.find(name)
        if known is None:
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
            raise ModelNotFound(
                f"The model {shown!r} does not exist; GET /v1/models lists those that do.",
                param="model",
            )
        return known

    def models_of(self, may_use: Callable[[Iterable[str]], bool]) -> list[str]:
        """Return the ids of the models of whose names a caller may use one."""
        return [known.card.model for known in self._catalog.all() if may_use(known.card.names)]

    def why_unserved(self, model: str) -> str:
        """Return why no worker takes a model's requests; empty where one does, or the model has
        been forgotten.
        """
        known = self._catalog.find(model)
        return known.why_unserved if known else ""

    def worker_of(self, model: str, id_: str) -> str:
        """The worker whose heartbeat lists the request; empty if none does, or the model has been
        forgotten.
        """
        known = self._catalog.find(model)
        return known.worker_of(id_) if known else ""

    def _is_crowd(self, known: ModelState, submission: Submission) -> bool:
        """Raises QueueFull, TenantQueueFull."""
        capacity = known.capacity
        depth = max(known.queue_depth, self._inbox.unanswered[known.card.model] - capacity)
        low = submission.priority == "low"
        if depth <= 0:
            return low
        # What of it runs is not known, but no more than this gateway's share of the model's slots.
        unanswered = self._inbox.of_tenants[known.card.model, submission.tenant]
        waiting = min(depth, unanswered - capacity // self._catalog.gateways)
        if waiting >= self._most_of_tenant:
            over = waiting - int(self._most_of_tenant)
            raise TenantQueueFull(
                f"{waiting} of your requests already wait for {submission.model!r}",
                retry_after_seconds=_until_room(known, over),
            )
        many = low or waiting > min(self._few_of_tenant, depth // 2)
        # many tenants with little each are no crowd, and yet too many
        most = self._most if many else 2 * self._most
        if depth >= most:
            raise QueueFull(
                f"{depth} requests already wait for {submission.model!r}",
                retry_after_seconds=_until_room(known, depth - most),
            )
        crowd = many and submission.priority != "high"
        if crowd:
            _refuse_if_too_late(known, depth, submission)
        return crowd


def _until_room(known: ModelState, over: int) -> float:
    """Seconds until so many requests, and one more, have been begun."""
    return known.estimated_wait(over + 1) or _RETRY_AFTER_SECONDS


def _refuse_if_too_late(known: ModelState, depth: int, submission: Submission) -> None:
    """It could not begin before its deadline. Raises QueueFull."""
    wait = known.estimated_wait(depth) or 0.0
    if wait > submission.timeout:
        longer = f"about {wait:.0f} s, longer than this one's {submission.timeout:g} s"
        raise QueueFull(
            f"{depth} requests wait for {submission.model!r}, {longer}",
            retry_after_seconds=wait - submission.timeout,
        )
