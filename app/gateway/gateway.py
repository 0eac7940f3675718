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
from app.protocol.heartbeats import GatewayHeartbeat, RequestSnapshots
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
_STORE_TIMEOUT_SECONDS = 1.0  # for its answer, when somebody asks how it is


class Gateway:
    def __init__(
        self, bus: Bus, store: Store, settings: Settings, tracer: Tracer | None = None
    ) -> None:
        self.settings = settings.gateway
        self.max_body_bytes = settings.bus.max_body_bytes
        self._bus = bus
        self._store = store
        self._bus_settings = settings.bus
        self._topics = topics = Topics.with_prefix(settings.bus.prefix, settings.bus.reply_topic)
        self.model_registry = ModelRegistry()
        worker_selector = WorkerSelector()
        self._reply_consumer = ReplyConsumer(bus, topics.replies)
        self.async_requests = self._reply_consumer.async_requests
        self.admission = Admission(self.model_registry, self._reply_consumer, settings.gateway)
        self.limiter = RateLimiter(self.admission, store, settings.gateway.limits_fail_open)
        sender = TracingSender(bus, tracer, settings.bus.messaging_system) if tracer else bus
        self.dispatcher = Dispatcher(
            sender,
            topics,
            self.admission,
            self._reply_consumer,
            worker_selector,
            settings.bus.admit_timeout_seconds,
        )
        own_id, interval_seconds = self.dispatcher.owner, settings.gateway.heartbeat_seconds
        self._membership = Membership(
            own_id,
            bus,
            topics,
            self.model_registry,
            interval_seconds,
            self._make_heartbeat,
            worker_selector.heard,
        )
        # Measured by itself: a broker that is slow to say how long queues are must not silence this
        # gateway.
        self._queue_depth_monitor = QueueDepthMonitor(
            bus,
            self.model_registry,
            self.dispatcher.abandoned_requests,
            self._membership.others,
            interval_seconds,
        )
        # what its heartbeats tell while an operator looks at another gateway
        self.snapshot_requests: Callable[[], RequestSnapshots] = dict
        scanner = RecordScanner(bus)
        self.request_views = RequestViews(
            bus, scanner, ReplyLookup(scanner, topics.replies), self.model_registry
        )
        self._reply_followers = ReplyFollowers(bus, topics.replies)
        self.reply_reader = ReplyReader(self._reply_followers, self.dispatcher)
        ttl_seconds = min(
            settings.gateway.idempotency_ttl_seconds, reply_retention_ms(settings.bus) / 1000
        )
        self.idempotency = Idempotency(
            store,
            self.dispatcher,
            self.request_views,
            self.reply_reader,
            settings.gateway,
            ttl_seconds,
        )

    async def start(self) -> None:
        """Reaches the log, learns the models, takes a reply partition. Waits for as long as no
        broker answers.
        """
        while self.admission.unready_reason:
            try:
                await self._start_components()
            except BusError as error:
                self.admission.unready_reason = str(error)
                logger.warning("not ready: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _start_components(self) -> None:
        for line in await self._bus.ensure_topics(shared_specs(self._bus_settings, self._topics)):
            logger.warning("topic kept as it is: %s", line)
        await self._membership.start()
        await self._reply_consumer.start(self._membership.reply_partitions())
        self._membership.begin_beats()
        self._queue_depth_monitor.start()
        self.admission.deployment = self._bus.deployment
        self.admission.unready_reason = ""

    async def drain(self) -> None:
        """Refuses what is new and waits for what runs, at most DRAIN_SECONDS."""
        self.admission.is_draining = True
        logger.info("draining: %d requests run", len(self._reply_consumer))
        await self._reply_consumer.wait_until_idle(self.settings.drain_seconds)
        for pending in self.pending_requests():
            message = (
                f"this gateway is being stopped; the request {pending.public_id} goes on and its "
                f"reply is kept"
            )
            self.dispatcher.detach_client_with_error(pending, GatewayDraining(message))

    async def close(self) -> None:
        self.admission.is_draining = True
        self._queue_depth_monitor.close()
        await self._membership.close()
        await self._reply_consumer.close()
        await self._reply_followers.close()
        self.limiter.concurrency_leases.close()
        await self._store.close()

    def unready_reasons(self) -> list[str]:
        """Why it does not serve; empty when it does."""
        checks = [("bus", self._bus.healthy()), ("start", self.admission.unready_reason)]
        reasons = [f"{name}: {why}" for name, why in checks if why]
        return [*reasons, "draining"] if self.admission.is_draining else reasons

    async def check_dependencies(self) -> dict[str, str]:
        """What it depends on, each `ok` or why not. Without its store it serves all the same, but
        for Idempotency-Keys.
        """
        return {"bus": self._bus.healthy() or "ok", "store": await self._check_store()}

    async def _check_store(self) -> str:
        try:
            async with asyncio.timeout(_STORE_TIMEOUT_SECONDS):
                await self._store.get("readyz")
        except (StoreUnavailable, TimeoutError) as error:
            store_logger.warning("the store is not ready: %s", error or "no answer in time")
            return StoreUnavailable.client_message
        return "ok"

    def pending_requests(self) -> set[PendingRequest]:
        """The requests that are being answered here."""
        return {*self._reply_consumer.pending_requests(), *self.reply_reader.pending_requests()}

    def detach_client(self, pending: PendingRequest, async_request: AsyncRequest) -> None:
        """The call's client has been told that it is accepted, and waits no more; `async_request`
        is what is kept of it.
        """
        self._reply_consumer.detach_client(pending, async_request)

    def live_gateways(self) -> list[GatewayHeartbeat]:
        """The gateways that live."""
        return self._membership.gateways()

    def other_gateways(self) -> list[GatewayHeartbeat]:
        """The same without this one."""
        return self._membership.others()

    def mark_watched(self) -> None:
        """An operator looks: for a while the other gateways tell what they have to show."""
        self._membership.watch()

    def _make_heartbeat(self) -> GatewayHeartbeat:
        return GatewayHeartbeat(
            gateway=self.dispatcher.owner,
            replies=self._topics.replies,
            partition=self._reply_consumer.partition,
            time=time.time(),
            interval=self.settings.heartbeat_seconds,
            in_flight=len(self._reply_consumer),
            leaving=self.admission.is_draining,
            version=__version__,
            withdrawn=self.dispatcher.abandoned_requests.counts(),
            watched=self._membership.watched,
            shown=self.snapshot_requests()
            if any(beat.watched for beat in self.other_gateways())
            else {},
        )
