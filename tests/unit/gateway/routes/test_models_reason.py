"""A model without a ready worker says why: in the list of models, and in /readyz."""

import time

from app.cluster.model_registry import ModelState
from app.gateway.routes.models import described
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat


def beat(worker: str, *, ready: bool, reason: str = "") -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker, "m", "t", "g", "r", time.time(), 1.0, capacity=1, ready=ready, reason=reason
    )


def test_the_reason_is_the_workers_own_while_none_serves() -> None:
    known = ModelState(ModelRegistration("m", "t", "g"))
    assert described(known)["reason"] == "no worker of it is running"
    known.workers = {
        "a": beat("a", ready=False, reason="up:80: Connection refused"),
        "b": beat("b", ready=False),
    }
    assert described(known)["reason"] == "up:80: Connection refused"
    known.workers["b"] = beat("b", ready=True)
    assert (described(known)["reason"], described(known)["workers"]) == (None, 1)
