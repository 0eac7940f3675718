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
from app.gateway.operator.dead_letters import DeadLetterReader
from app.gateway.operator.live_requests import LiveRequests
from app.protocol.heartbeats import WorkerHeartbeat


class Overview:
    def __init__(
        self,
        gateway: Gateway,
        live_requests: LiveRequests,
        access_log: AccessLog,
        dead_letter_reader: DeadLetterReader,
    ) -> None:
        self._gateway = gateway
        self._live_requests = live_requests
        self._access_log = access_log
        self._dead_letter_reader = dead_letter_reader

    async def snapshot(self) -> dict[str, Any]:
        """At this moment. Raises nothing of the log's: what is out of reach says so in its
        place.
        """
        dead_letters = await self._dead_letter_reader.snapshot()
        self._access_log.flush()  # whoever has a reply finds its request among the recent ones
        return {
            "time": time.time(),
            "gateway": self._describe_gateway(),
            "gateways": [
                {"id": beat.gateway, "in_flight": beat.in_flight, "version": beat.version}
                for beat in self._gateway.live_gateways()
            ],
            "models": [_describe_model(known) for known in self._gateway.model_registry.all()],
            **self._live_requests.cluster_snapshot(),
            "dead_letters": dead_letters,
        }

    def _describe_gateway(self) -> dict[str, Any]:
        return {
            "id": self._gateway.dispatcher.owner,
            "version": __version__,
            "in_flight": len(self._gateway.pending_requests()),
            "unready": self._gateway.unready_reasons(),
        }


def _describe_model(model_state: ModelState) -> dict[str, Any]:
    return {
        "id": model_state.card.model,
        "aliases": list(model_state.card.aliases),
        "queue_depth": model_state.queue_depth,
        "estimated_wait_seconds": model_state.estimated_wait(model_state.queue_depth),
        "in_flight": model_state.in_flight,
        "capacity": model_state.capacity,
        "workers": [
            _describe_worker(beat)
            for beat in sorted(
                model_state.workers.values(), key=lambda beat: (beat.host, beat.worker)
            )
        ],
    }


def _describe_worker(heartbeat: WorkerHeartbeat) -> dict[str, Any]:
    return {
        "id": heartbeat.worker,
        "host": heartbeat.host,
        "version": heartbeat.version,
        "ready": heartbeat.ready,
        "reason": heartbeat.reason,
        "capacity": heartbeat.capacity,
        "in_flight": heartbeat.in_flight,
        "waiting": heartbeat.waiting,
        "partitions": len(heartbeat.partitions),
    }
