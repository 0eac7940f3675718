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
_MAX_MODEL_NAME_CHARS = 200  # characters of an unknown model's name: it may be as large as the body


class Admission:
    def __init__(
        self,
        model_registry: ModelRegistry,
        reply_consumer: ReplyConsumer,
        settings: GatewaySettings,
    ) -> None:
        self._model_registry = model_registry
        self._reply_consumer = reply_consumer
        self._max_queue_depth = settings.max_queue_depth
        self._max_tenant_queue_depth = settings.max_tenant_queue_depth or math.inf
        self._soft_max_tenant_queue_depth = settings.soft_max_tenant_queue_depth
        self.deployment = ""  # names the log this gateway writes to
        self.unready_reason = "starting"  # why no request is admitted; empty when they are
        self.is_draining = False

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
        model_state = self.get_model(submission.model)
        uses_bulk_lane = self._should_use_bulk_lane(model_state, submission)
        if uses_bulk_lane:
            BULK_LANE_REQUESTS.labels(model_state.card.model).inc()
        return model_state, uses_bulk_lane

    def refuse_if_closed(self) -> None:
        """Raises Draining, and BusUnavailable while this gateway has no reply partition yet."""
        if self.is_draining:
            raise Draining(
                "this gateway is being stopped; send the request again", retry_after_seconds=1
            )
        self.refuse_if_unready()

    def refuse_if_unready(self) -> None:
        """Raises BusUnavailable while this gateway does not know the log's models and requests."""
        if self.unready_reason:
            raise BusUnavailable(f"not ready: {self.unready_reason}", retry_after_seconds=1)

    def get_model(self, name: str) -> ModelState:
        """Raises ModelNotFound."""
        model_state = self._model_registry.find(name)
        if model_state is None:
            shown_name = (
                name if len(name) <= _MAX_MODEL_NAME_CHARS else f"{name[:_MAX_MODEL_NAME_CHARS]}..."
            )
            raise ModelNotFound(
                f"The model {shown_name!r} does not exist; GET /v1/models lists those that do.",
                param="model",
            )
        return model_state

    def list_allowed_models(self, can_use_model: Callable[[Iterable[str]], bool]) -> list[str]:
        """Return the ids of the models of whose names a caller may use one."""
        return [
            model_state.card.model
            for model_state in self._model_registry.all()
            if can_use_model(model_state.card.names)
        ]

    def get_unserved_reason(self, model: str) -> str:
        """Return why no worker takes a model's requests; empty where one does, or the model has
        been forgotten.
        """
        model_state = self._model_registry.find(model)
        return model_state.why_unserved if model_state else ""

    def find_worker(self, model: str, id_: str) -> str:
        """The worker whose heartbeat lists the request; empty if none does, or the model has been
        forgotten.
        """
        model_state = self._model_registry.find(model)
        return model_state.worker_of(id_) if model_state else ""

    def _should_use_bulk_lane(self, model_state: ModelState, submission: Submission) -> bool:
        """Raises QueueFull, TenantQueueFull."""
        capacity = model_state.capacity
        queue_depth = max(
            model_state.queue_depth,
            self._reply_consumer.unstarted_by_model[model_state.card.model] - capacity,
        )
        is_low_priority = submission.priority == "low"
        if queue_depth <= 0:
            return is_low_priority
        # What of it runs is not known, but no more than this gateway's share of the model's slots.
        unanswered = self._reply_consumer.unstarted_by_tenant[
            model_state.card.model, submission.tenant
        ]
        waiting = min(queue_depth, unanswered - capacity // self._model_registry.gateways)
        if waiting >= self._max_tenant_queue_depth:
            excess = waiting - int(self._max_tenant_queue_depth)
            raise TenantQueueFull(
                f"{waiting} of your requests already wait for {submission.model!r}",
                retry_after_seconds=_estimate_seconds_until_room(model_state, excess),
            )
        is_over_soft_limit = is_low_priority or waiting > min(
            self._soft_max_tenant_queue_depth, queue_depth // 2
        )
        # many tenants with little each are no crowd, and yet too many
        max_depth = self._max_queue_depth if is_over_soft_limit else 2 * self._max_queue_depth
        if queue_depth >= max_depth:
            raise QueueFull(
                f"{queue_depth} requests already wait for {submission.model!r}",
                retry_after_seconds=_estimate_seconds_until_room(
                    model_state, queue_depth - max_depth
                ),
            )
        uses_bulk_lane = is_over_soft_limit and submission.priority != "high"
        if uses_bulk_lane:
            _refuse_if_too_late(model_state, queue_depth, submission)
        return uses_bulk_lane


def _estimate_seconds_until_room(model_state: ModelState, excess: int) -> float:
    """Seconds until so many requests, and one more, have been begun."""
    return model_state.estimated_wait(excess + 1) or _RETRY_AFTER_SECONDS


def _refuse_if_too_late(model_state: ModelState, queue_depth: int, submission: Submission) -> None:
    """It could not begin before its deadline. Raises QueueFull."""
    wait_seconds = model_state.estimated_wait(queue_depth) or 0.0
    if wait_seconds > submission.timeout_seconds:
        comparison = (
            f"about {wait_seconds:.0f} s, longer than this one's {submission.timeout_seconds:g} s"
        )
        raise QueueFull(
            f"{queue_depth} requests wait for {submission.model!r}, {comparison}",
            retry_after_seconds=wait_seconds - submission.timeout_seconds,
        )
