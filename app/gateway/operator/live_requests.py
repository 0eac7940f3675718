"""The requests of all gateways as the operator's view shows them: those that run, and the last that
ended.

Each gateway knows its own. While an operator looks at one of them its heartbeats say so, and the
others' tell theirs: the view is whole whichever gateway is asked, behind nginx or of several
processes on one port, and costs nothing while nobody looks.
"""

import time
from collections.abc import Iterable
from heapq import nlargest
from typing import Any

from app.gateway.accounting.recent_requests import RecentRequests
from app.gateway.accounting.request_metrics import endpoint_of
from app.gateway.gateway import Gateway
from app.inference.async_requests import AsyncRequest
from app.inference.pending_request import PendingRequest
from app.protocol.heartbeats import Shown

_MOST_RUNNING, _MOST_ENDED = 100, 200
_MOST_TOLD = 50  # of each, in a heartbeat: some 30 KB


class LiveRequests:
    def __init__(self, gateway: Gateway, recent: RecentRequests) -> None:
        self._gateway = gateway
        self._recent = recent

    def told(self) -> Shown:
        """What this gateway's heartbeats say of it while an operator looks at another one."""
        return self._own(_MOST_TOLD, _MOST_TOLD)

    def of_all(self) -> Shown:
        """The newest first; of very many only these. What other gateways have is as old as their
        last heartbeats.
        """
        self._gateway.watch()
        everything = {beat.gateway: beat.shown for beat in self._gateway.others()}
        everything[self._gateway.dispatcher.owner] = self._own(_MOST_RUNNING, _MOST_ENDED)

        def newest(kind: str, most: int, when: str) -> list[dict[str, Any]]:
            found = (
                {"gateway": name, **one}
                for name, shown in everything.items()
                for one in shown.get(kind, ())
            )
            return _newest(most, found, when)

        return {
            "running": newest("running", _MOST_RUNNING, "created_at"),
            "recent": newest("recent", _MOST_ENDED, "ended_at"),
        }

    def _own(self, running: int, ended: int) -> Shown:
        gateway = self._gateway
        models = gateway.catalog.all()
        runs = {
            id_: beat.worker
            for known in models
            for beat in known.workers.values()
            for id_ in beat.running
        }
        calls = nlargest(running, gateway.calls(), key=lambda call: call.request.created)
        found = [_call(call, call.fold.writer or runs.get(call.id, "")) for call in calls]
        found += [
            _asynchronous(one, one.fold.writer or runs.get(id_, ""))
            for id_, one in gateway.asynchronous.newest(running)
        ]
        return {
            "running": _newest(running, found, "created_at"),
            "recent": self._recent.described(ended),
        }


def _newest(most: int, requests: Iterable[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    return nlargest(most, requests, key=lambda one: one.get(when, 0.0))


def _call(call: PendingRequest, worker: str) -> dict[str, Any]:
    """`worker` empty: none has begun it."""
    return {
        "id": call.public_id,
        "model": call.model,
        "endpoint": endpoint_of(f"/v1{call.request.path.partition('?')[0]}"),
        "tenant": call.request.tenant,
        "stream": call.request.stream,
        "created_at": call.request.created / 1000,
        "state": "running" if worker else "queued",
        "worker": worker,
    }


def _asynchronous(one: AsyncRequest, worker: str) -> dict[str, Any]:
    return {
        "id": one.public_id,
        "model": one.model,
        "endpoint": endpoint_of(one.path),
        "tenant": one.tenant,
        "stream": one.stream,
        "created_at": time.time() - (time.monotonic() - one.began),
        "state": "running" if worker else "queued",
        "worker": worker,
    }
