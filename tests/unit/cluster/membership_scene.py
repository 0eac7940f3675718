"""A gateway's presence, and others that beat when a test says so."""

import time
from typing import Any

from app.cluster.membership import Membership
from app.cluster.model_registry import ModelRegistry, ModelState
from app.dispatch.abandoned_requests import AbandonedRequests
from app.dispatch.queue_depth import QueueDepthMonitor
from app.dispatch.worker_selection import WorkerSelector
from app.protocol.heartbeats import (
    GatewayHeartbeat,
    ModelRegistration,
    WorkerHeartbeat,
    encode_message,
)
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, turns

GROUP = "llm.m"


CARD = ModelRegistration(MODEL, REQUESTS, GROUP)


class Scene:
    """A gateway's presence, and others that beat when a test says so."""

    def __init__(self, bus: ScriptedBus) -> None:
        self.bus = bus
        self.catalog = ModelRegistry()
        self.placement = WorkerSelector()
        self.leaving = False
        self.withdrawn = AbandonedRequests()
        self.presence = Membership(
            "me", bus, TOPICS, self.catalog, 1.0, self._describe, self.placement.heard
        )
        self.queues = QueueDepthMonitor(
            bus, self.catalog, self.withdrawn, self.presence.others, 1.0
        )

    def _describe(self) -> GatewayHeartbeat:
        return GatewayHeartbeat("me", TOPICS.replies, 0, time.time(), 1.0, leaving=self.leaving)

    async def card(self, card: ModelRegistration) -> None:
        await self.bus.send(
            TOPICS.models, encode_message(card), key=card.model.encode(), headers=[]
        )

    async def worker(self, name: str, **members: Any) -> None:
        about = {"replies": TOPICS.replies, "time": time.time(), "interval": 1.0, **members}
        await self.beats(encode_message(WorkerHeartbeat(name, MODEL, REQUESTS, GROUP, **about)))

    async def gateway(self, name: str, **members: Any) -> None:
        beat = GatewayHeartbeat(
            name,
            TOPICS.replies,
            **{"partition": 1, "time": time.time(), "interval": 1.0, **members},
        )
        await self.beats(encode_message(beat))

    async def beats(self, value: bytes) -> None:
        await self.bus.send(TOPICS.workers, value, key=b"k", headers=[("v", b"1")])
        await turns()

    async def begin(self) -> None:
        await self.presence.start()
        self.presence.begin_beats()
        self.queues.start()
        await turns()

    def known(self) -> ModelState:
        found = self.catalog.find(MODEL)
        assert found is not None
        return found
