"""The gateway of one process: composes bus, catalog, inbox and dispatcher; starts, drains and ends
them.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from app import __version__
from app.bus.base import Bus
from app.bus.topic_configs import reply_retention_ms, shared_specs
from app.cluster.membership import Membership
from app.cluster.model_registry import ModelRegistry
from app.config.settings import Settings
from app.dispatch.queue_depth import QueueDepthMonitor
from app.dispatch.worker_selection import WorkerSelector
from app.errors import BusError, GatewayDraining, StoreUnavailable
from app.gateway.access.limits import RateLimiter
from app.gateway.accounting.tracing import TracingSender
from app.inference.admission import Admission
from app.inference.async_requests import AsyncRequest
from app.inference.dispatcher import Dispatcher
from app.inference.idempotency import Idempotency
from app.inference.pending_request import PendingRequest
from app.inference.reply_consumer import ReplyConsumer
from app.inference.reply_reader import ReplyReader
from app.inference.request_view import RequestViews
from app.protocol.heartbeats import GatewayHeartbeat, Shown
from app.protocol.topics import Topics
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_feed import ReplyFollowers
from app.reply_log.reply_lookup import ReplyLookup
from app.stores.base import Store
from app.telemetry.logs import Throttle
from app.telemetry.tracing import Tracer

logger = logging.getLogger("app.gateway")
store_logger = logging.getLogger("app.gateway.store")
store_logger.addFilter(Throttle())  # anybody may ask

_RETRY_SECONDS = 1.0
_STORE_SECONDS = 1.0  # for its answer, when somebody asks how it is


class Gateway:
    def __init__(
        self, bus: Bus, store: Store, settings: Settings, tracer: Tracer | None = None
    ) -> None:
        self.settings = settings.gateway
        self.max_body = settings.bus.max_body
        self._bus = bus
        self._store = store
        self._bus_settings = settings.bus
        self._topics = topics = Topics.named(settings.bus.prefix, settings.bus.response_topic)
        self.catalog = ModelRegistry()
        placement = WorkerSelector()
        self._inbox = ReplyConsumer(bus, topics.replies)
        self.asynchronous = self._inbox.asynchronous
        self.admission = Admission(self.catalog, self._inbox, settings.gateway)
        self.limiter = RateLimiter(self.admission, store, settings.gateway.limits_fail_open)
        sender = TracingSender(bus, tracer, settings.bus.system) if tracer else bus
        self.dispatcher = Dispatcher(
            sender, topics, self.admission, self._inbox, placement, settings.bus.admit_timeout
        )
        own, interval = self.dispatcher.owner, settings.gateway.heartbeat
        self._presence = Membership(
            own, bus, topics, self.catalog, interval, self._describe, placement.heard
        )
        # Measured by itself: a broker that is slow to say how long queues are must not silence this
        # gateway.
        self._queues = QueueDepthMonitor(
            bus, self.catalog, self.dispatcher.withdrawn, self._presence.others, interval
        )
        # what its heartbeats tell while an operator looks at another gateway
        self.shown: Callable[[], Shown] = dict
        scanner = RecordScanner(bus)
        self.resources = RequestViews(
            bus, scanner, ReplyLookup(scanner, topics.replies), self.catalog
        )
        self._followers = ReplyFollowers(bus, topics.replies)
        self.reader = ReplyReader(self._followers, self.dispatcher)
        ttl = min(settings.gateway.idempotency_ttl, reply_retention_ms(settings.bus) / 1000)
        self.idempotency = Idempotency(
            store, self.dispatcher, self.resources, self.reader, settings.gateway, ttl
        )

    async def start(self) -> None:
        """Reaches the log, learns the models, takes a reply partition. Waits for as long as no
        broker answers.
        """
        while self.admission.unready:
            try:
                await self._begin()
            except BusError as error:
                self.admission.unready = str(error)
                logger.warning("not ready: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _begin(self) -> None:
        for line in await self._bus.ensure_topics(shared_specs(self._bus_settings, self._topics)):
            logger.warning("topic kept as it is: %s", line)
        await self._presence.start()
        await self._inbox.start(self._presence.reply_partitions())
        self._presence.begin_beats()
        self._queues.start()
        self.admission.deployment = self._bus.deployment
        self.admission.unready = ""

    async def drain(self) -> None:
        """Refuses what is new and waits for what runs, at most DRAIN_SECONDS."""
        self.admission.draining = True
        logger.info("draining: %d requests run", len(self._inbox))
        await self._inbox.empty(self.settings.drain)
        for call in self.calls():
            gone_on = (
                f"this gateway is being stopped; the request {call.public_id} goes on and its "
                f"reply is kept"
            )
            self.dispatcher.let_go(call, GatewayDraining(gone_on))

    async def close(self) -> None:
        self.admission.draining = True
        self._queues.close()
        await self._presence.close()
        await self._inbox.close()
        await self._followers.close()
        self.limiter.places.close()
        await self._store.close()

    def unready(self) -> list[str]:
        """Why it does not serve; empty when it does."""
        reasons = [("bus", self._bus.healthy()), ("start", self.admission.unready)]
        found = [f"{name}: {why}" for name, why in reasons if why]
        return [*found, "draining"] if self.admission.draining else found

    async def dependencies(self) -> dict[str, str]:
        """What it depends on, each `ok` or why not. Without its store it serves all the same, but
        for Idempotency-Keys.
        """
        return {"bus": self._bus.healthy() or "ok", "store": await self._store_state()}

    async def _store_state(self) -> str:
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._store.get("readyz")
        except (StoreUnavailable, TimeoutError) as error:
            store_logger.warning("the store is not ready: %s", error or "no answer in time")
            return StoreUnavailable.told
        return "ok"

    def calls(self) -> set[PendingRequest]:
        """The requests that are being answered here."""
        return {*self._inbox.calls(), *self.reader.calls()}

    def detach(self, call: PendingRequest, one: AsyncRequest) -> None:
        """The call's client has been told that it is accepted, and waits no more; `one` is what is
        kept of it.
        """
        self._inbox.detach(call, one)

    def gateways(self) -> list[GatewayHeartbeat]:
        """The gateways that live."""
        return self._presence.gateways()

    def others(self) -> list[GatewayHeartbeat]:
        """The same without this one."""
        return self._presence.others()

    def watch(self) -> None:
        """An operator looks: for a while the other gateways tell what they have to show."""
        self._presence.watch()

    def _describe(self) -> GatewayHeartbeat:
        return GatewayHeartbeat(
            gateway=self.dispatcher.owner,
            replies=self._topics.replies,
            partition=self._inbox.partition,
            time=time.time(),
            interval=self.settings.heartbeat,
            in_flight=len(self._inbox),
            leaving=self.admission.draining,
            version=__version__,
            withdrawn=self.dispatcher.withdrawn.counts(),
            watched=self._presence.watched,
            shown=self.shown() if any(beat.watched for beat in self.others()) else {},
        )
