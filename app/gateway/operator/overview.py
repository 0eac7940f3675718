"""What the operator's view shows, as JSON: the gateways, the models and their workers, requests,
dead letters.

No prompts, no replies, no keys: of a request only what its access line says, of a dead letter only
its headers.
"""

import time
from typing import Any

from app import __version__
from app.cluster.model_registry import ModelState
from app.gateway.accounting.access_log import AccessLog
from app.gateway.gateway import Gateway
from app.gateway.operator.dead_letters import DeadLetters
from app.gateway.operator.live_requests import LiveRequests
from app.protocol.heartbeats import WorkerHeartbeat


class Overview:
    def __init__(
        self,
        gateway: Gateway,
        activity: LiveRequests,
        access_log: AccessLog,
        dead_letters: DeadLetters,
    ) -> None:
        self._gateway = gateway
        self._activity = activity
        self._access_log = access_log
        self._dead_letters = dead_letters

    async def described(self) -> dict[str, Any]:
        """At this moment. Raises nothing of the log's: what is out of reach says so in its
        place.
        """
        letters = await self._dead_letters.described()
        self._access_log.write()  # whoever has a reply finds its request among the recent ones
        return {
            "time": time.time(),
            "gateway": self._itself(),
            "gateways": [
                {"id": beat.gateway, "in_flight": beat.in_flight, "version": beat.version}
                for beat in self._gateway.gateways()
            ],
            "models": [_model(known) for known in self._gateway.catalog.all()],
            **self._activity.of_all(),
            "dead_letters": letters,
        }

    def _itself(self) -> dict[str, Any]:
        return {
            "id": self._gateway.dispatcher.owner,
            "version": __version__,
            "in_flight": len(self._gateway.calls()),
            "unready": self._gateway.unready(),
        }


def _model(known: ModelState) -> dict[str, Any]:
    return {
        "id": known.card.model,
        "aliases": list(known.card.aliases),
        "queue_depth": known.queue_depth,
        "estimated_wait_seconds": known.estimated_wait(known.queue_depth),
        "in_flight": known.in_flight,
        "capacity": known.capacity,
        "workers": [
            _worker(beat)
            for beat in sorted(known.workers.values(), key=lambda beat: (beat.host, beat.worker))
        ],
    }


def _worker(beat: WorkerHeartbeat) -> dict[str, Any]:
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
