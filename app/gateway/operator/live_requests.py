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
from app.protocol.heartbeats import RequestSnapshots

_MAX_RUNNING, _MAX_ENDED = 100, 200
_MAX_IN_HEARTBEAT = 50  # of each, in a heartbeat: some 30 KB


class LiveRequests:
    def __init__(self, gateway: Gateway, recent_requests: RecentRequests) -> None:
        self._gateway = gateway
        self._recent_requests = recent_requests

    def heartbeat_snapshot(self) -> RequestSnapshots:
        """What this gateway's heartbeats say of it while an operator looks at another one."""
        return self._local_snapshot(_MAX_IN_HEARTBEAT, _MAX_IN_HEARTBEAT)

    def cluster_snapshot(self) -> RequestSnapshots:
        """The newest first; of very many only these. What other gateways have is as old as their
        last heartbeats.
        """
        self._gateway.mark_watched()
        snapshots = {beat.gateway: beat.shown for beat in self._gateway.other_gateways()}
        snapshots[self._gateway.dispatcher.owner] = self._local_snapshot(_MAX_RUNNING, _MAX_ENDED)

        def merge_newest(kind: str, max_requests: int, time_field: str) -> list[dict[str, Any]]:
            described_requests = (
                {"gateway": name, **one}
                for name, shown in snapshots.items()
                for one in shown.get(kind, ())
            )
            return _select_newest(max_requests, described_requests, time_field)

        return {
            "running": merge_newest("running", _MAX_RUNNING, "created_at"),
            "recent": merge_newest("recent", _MAX_ENDED, "ended_at"),
        }

    def _local_snapshot(self, max_running: int, max_ended: int) -> RequestSnapshots:
        gateway = self._gateway
        models = gateway.model_registry.all()
        worker_by_request_id = {
            id_: beat.worker
            for known in models
            for beat in known.workers.values()
            for id_ in beat.running
        }
        pending_requests = nlargest(
            max_running, gateway.pending_requests(), key=lambda call: call.request.created
        )
        described_requests = [
            _describe_pending_request(
                call, call.reply_state.writer or worker_by_request_id.get(call.id, "")
            )
            for call in pending_requests
        ]
        described_requests += [
            _describe_async_request(
                one, one.reply_state.writer or worker_by_request_id.get(id_, "")
            )
            for id_, one in gateway.async_requests.list_newest(max_running)
        ]
        return {
            "running": _select_newest(max_running, described_requests, "created_at"),
            "recent": self._recent_requests.snapshot(max_ended),
        }


def _select_newest(
    max_requests: int, requests: Iterable[dict[str, Any]], time_field: str
) -> list[dict[str, Any]]:
    return nlargest(max_requests, requests, key=lambda one: one.get(time_field, 0.0))


def _describe_pending_request(pending: PendingRequest, worker: str) -> dict[str, Any]:
    """`worker` empty: none has begun it."""
    return {
        "id": pending.public_id,
        "model": pending.model_id,
        "endpoint": endpoint_of(f"/v1{pending.request.path.partition('?')[0]}"),
        "tenant": pending.request.tenant,
        "stream": pending.request.stream,
        "created_at": pending.request.created / 1000,
        "state": "running" if worker else "queued",
        "worker": worker,
    }


def _describe_async_request(async_request: AsyncRequest, worker: str) -> dict[str, Any]:
    return {
        "id": async_request.public_id,
        "model": async_request.model_id,
        "endpoint": endpoint_of(async_request.path),
        "tenant": async_request.tenant,
        "stream": async_request.stream,
        "created_at": time.time() - (time.monotonic() - async_request.started_at),
        "state": "running" if worker else "queued",
        "worker": worker,
    }
