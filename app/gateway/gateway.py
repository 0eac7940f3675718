"""The gateway of one process: composes bus, catalog, inbox and dispatcher; starts, drains and ends them."""

import asyncio
import logging
import time

from app import __version__
from app.bus.base import Bus
from app.bus.specs import shared_specs
from app.catalog import Catalog
from app.contracts.presence import GatewayBeat
from app.contracts.topics import Topics
from app.errors import BusError, GatewayDraining
from app.gateway.dispatch import Dispatcher
from app.gateway.inbox import Inbox
from app.gateway.placement import Placement
from app.gateway.presence import Presence
from app.settings import Settings

logger = logging.getLogger("app.gateway")

_RETRY_SECONDS = 1.0


class Gateway:
    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.settings = settings.gateway
        self.max_body = settings.bus.max_body
        self._bus = bus
        self._bus_settings = settings.bus
        self._topics = Topics.named(settings.bus.prefix, settings.bus.response_topic)
        self.catalog = Catalog()
        self._placement = Placement()
        self._inbox = Inbox(bus, self._topics.replies)
        self.dispatcher = Dispatcher(
            bus, self._topics, self.catalog, self._inbox, self._placement, settings.bus, settings.gateway
        )
        interval = settings.gateway.heartbeat
        self._presence = Presence(bus, self._topics, self.catalog, self._placement, interval, self._describe)

    async def start(self) -> None:
        """Reaches the log, learns the models, takes a reply partition. Waits for as long as no broker answers."""
        while self.dispatcher.unready:
            try:
                await self._begin()
            except BusError as error:
                self.dispatcher.unready = str(error)
                logger.warning("not ready: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _begin(self) -> None:
        for line in await self._bus.ensure_topics(shared_specs(self._bus_settings, self._topics)):
            logger.warning("topic kept as it is: %s", line)
        await self._presence.start()
        await self._inbox.start(self._presence.reply_partitions())
        self._presence.begin_beats()
        self.dispatcher.unready = ""

    async def drain(self) -> None:
        """Refuses what is new and waits for what runs, at most DRAIN_SECONDS."""
        self.dispatcher.draining = True
        logger.info("draining: %d requests run", len(self._inbox))
        await self._inbox.empty(self.settings.drain)
        for call in self._inbox.calls():
            gone_on = f"this gateway is being stopped; the request {call.public_id} goes on and its reply is kept"
            self.dispatcher.let_go(call, GatewayDraining(gone_on))

    async def close(self) -> None:
        self.dispatcher.draining = True
        await self._presence.close()
        await self._inbox.close()

    def unready(self) -> list[str]:
        """Why it does not serve; empty when it does."""
        reasons = [("bus", self._bus.healthy()), ("start", self.dispatcher.unready)]
        found = [f"{name}: {why}" for name, why in reasons if why]
        return [*found, "draining"] if self.dispatcher.draining else found

    def _describe(self) -> GatewayBeat:
        return GatewayBeat(
            gateway=self.dispatcher.owner,
            replies=self._topics.replies,
            partition=self._inbox.partition,
            time=time.time(),
            interval=self.settings.heartbeat,
            in_flight=len(self._inbox),
            leaving=self.dispatcher.draining,
            version=__version__,
        )
