"""What the operator's view shows, as JSON: this gateway, the models and their workers, requests, dead letters.

No prompts, no replies, no keys: of a request only what its access line says, of a dead letter only its headers.
"""

import time
from collections.abc import Iterable
from heapq import nlargest
from typing import Any

from app import __version__
from app.catalog import Known
from app.contracts.presence import WorkerBeat
from app.gateway.access_log import AccessLog
from app.gateway.async_requests import AsyncRequest
from app.gateway.call import Call
from app.gateway.gateway import Gateway
from app.gateway.observed import endpoint_of
from app.gateway.recent import Recent

_MOST_RUNNING = 100


class Overview:
    def __init__(self, gateway: Gateway, recent: Recent, access_log: AccessLog) -> None:
        self._gateway = gateway
        self._recent = recent
        self._access_log = access_log

    async def described(self) -> dict[str, Any]:
        """At this moment. Raises nothing of the log's: what is out of reach says so in its place."""
        letters = await self._gateway.dead_letters.described()
        models, calls = self._gateway.catalog.all(), self._gateway.calls()
        self._access_log.write()  # whoever has a reply finds its request among the recent ones
        return {
            "time": time.time(),
            "gateway": self._itself(len(calls)),
            "gateways": [
                {"id": beat.gateway, "in_flight": beat.in_flight, "version": beat.version} for beat in self._gateway.gateways()
            ],
            "models": [_model(known) for known in models],
            "running": _running(calls, self._gateway.asynchronous.newest(_MOST_RUNNING), models),
            "recent": self._recent.described(),
            "dead_letters": letters,
        }

    def _itself(self, in_flight: int) -> dict[str, Any]:
        return {
            "id": self._gateway.dispatcher.owner,
            "version": __version__,
            "in_flight": in_flight,
            "unready": self._gateway.unready(),
        }


def _model(known: Known) -> dict[str, Any]:
    return {
        "id": known.card.model,
        "aliases": list(known.card.aliases),
        "queue_depth": known.queue_depth,
        "estimated_wait_seconds": known.estimated_wait(known.queue_depth),
        "in_flight": known.in_flight,
        "capacity": known.capacity,
        "workers": [_worker(beat) for beat in sorted(known.workers.values(), key=lambda beat: (beat.host, beat.worker))],
    }


def _worker(beat: WorkerBeat) -> dict[str, Any]:
    return {
        "id": beat.worker,
        "host": beat.host,
        "version": beat.version,
        "ready": beat.ready,
        "reason": beat.reason,
        "capacity": beat.capacity,
        "in_flight": beat.in_flight,
        "waiting": beat.waiting,
        "partitions": len(beat.partitions),
    }


def _running(
    calls: Iterable[Call], asynchronous: Iterable[tuple[str, AsyncRequest]], models: Iterable[Known]
) -> list[dict[str, Any]]:
    """The newest first; of very many only these."""
    runs = {id_: beat.worker for known in models for beat in known.workers.values() for id_ in beat.running}
    newest = nlargest(_MOST_RUNNING, calls, key=lambda call: call.request.created)
    found = [_call(call, call.fold.writer or runs.get(call.id, "")) for call in newest]
    found += [_asynchronous(one, one.fold.writer or runs.get(id_, "")) for id_, one in asynchronous]
    return nlargest(_MOST_RUNNING, found, key=lambda one: one["created_at"])


def _call(call: Call, worker: str) -> dict[str, Any]:
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
