"""A model without a ready worker says why: in the list of models, and in /readyz."""

import time

from app.cluster.model_registry import ModelState
from app.gateway.routes.models import describe_model
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat


def beat(worker: str, *, ready: bool, reason: str = "") -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker, "m", "t", "g", "r", time.time(), 1.0, capacity=1, ready=ready, reason=reason
    )


def test_the_reason_is_the_workers_own_while_none_serves() -> None:
    known = ModelState(ModelRegistration("m", "t", "g"))
    assert describe_model(known)["reason"] == "no worker of it is running"
    known.workers = {
        "a": beat("a", ready=False, reason="up:80: Connection refused"),
        "b": beat("b", ready=False),
    }
    assert describe_model(known)["reason"] == "up:80: Connection refused"
    known.workers["b"] = beat("b", ready=True)
    assert (describe_model(known)["reason"], describe_model(known)["workers"]) == (None, 1)
