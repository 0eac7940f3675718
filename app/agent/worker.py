"""A worker: one model's member of its consumer group."""

import asyncio
import logging
import platform
import secrets
import time
from collections.abc import Awaitable, Callable

from app import __version__
from app.agent.consume.cancellations import Cancellations
from app.agent.consume.concurrency_limiter import ConcurrencyLimiter
from app.agent.consume.partition_buffers import PartitionBuffers
from app.agent.consume.scheduler import Scheduler
from app.agent.consume.tracing import JobTraces, TracedEngine
from app.agent.engines.base import Engine
from app.agent.engines.upstream_watch import UpstreamWatch
from app.agent.reply.job_context import JobContext
from app.agent.reply.reply_batcher import ReplyBatcher
from app.bus.base import Bus, GroupReader
from app.bus.topic_configs import largest_record, request_spec, shared_specs
from app.cluster.heartbeat_sender import HeartbeatSender
from app.cluster.peers import Peers
from app.config.bus_settings import BusSettings
from app.config.model_entry import ModelEntry
from app.config.settings import WorkerSettings
from app.protocol.heartbeats import WorkerHeartbeat, encode_message
from app.protocol.reply_batch import BATCH_VERSION
from app.protocol.topics import Topics
from app.reply_log.backlog_feed import ReplyTails
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_lookup import ReplyLookup
from app.reply_log.retry import until_done
from app.telemetry.metrics import DEAD_LETTERS, REBALANCES, TAKEOVERS, UPSTREAM_RETRIES
from app.telemetry.tracing import Tracer

logger = logging.getLogger("app.agent")

_ENGINE_CHECK_SECONDS = 1.0
_BUS_RETRY_SECONDS = 1.0
_LEAST_BUFFER = 8  # records per partition


class Worker:
    """`start`, then it works by itself until `drain`."""

    def __init__(
        self,
        bus: Bus,
        bus_settings: BusSettings,
        settings: WorkerSettings,
        entry: ModelEntry,
        engine: Engine,
        tracer: Tracer | None = None,
    ) -> None:
        self._bus = bus
        self._bus_settings = bus_settings
        self._interval = settings.heartbeat_seconds
        self._entry = entry
        self._engine = engine = engine if tracer is None else TracedEngine(engine, entry, tracer)
        self.owner = secrets.token_hex(8)
        self._topics = topics = Topics.with_prefix(bus_settings.prefix, bus_settings.reply_topic)
        self._card = entry.make_registration(bus_settings.prefix, int(time.time()))
        for counter in (TAKEOVERS, UPSTREAM_RETRIES, DEAD_LETTERS):
            # 0 from the start: what looks at an increase would miss the first one
            counter.labels(entry.id)
        self._slots = ConcurrencyLimiter(
            entry.concurrency or settings.concurrency, lambda: self._scheduler.begin_quiet()
        )
        self._intake = PartitionBuffers(self._changed, lambda: self._scheduler.pump())
        self._beats = HeartbeatSender(
            bus, topics.workers, settings.heartbeat_seconds, self._describe
        )
        self._peers = Peers(bus, topics.workers, settings.heartbeat_seconds, self.owner)
        lookup = ReplyLookup(RecordScanner(bus), topics.replies)
        self._tails = tails = ReplyTails(bus, topics.replies, lookup)
        outbox = ReplyBatcher(bus, topics.replies, lambda: self._peers.all_read(BATCH_VERSION))
        self._upstream = UpstreamWatch(engine, entry.id, self._beats.soon)
        self._context = JobContext(
            bus,
            topics,
            entry,
            engine,
            self.owner,
            lookup,
            tails,
            outbox,
            self._upstream,
            settings.max_upstream_retries,
            largest_record(bus_settings),
            settings.max_reply_bytes,
        )
        self._control = Cancellations(
            bus,
            topics.control,
            settings.request_timeout_seconds,
            lambda control: self._scheduler.on_control(control),
        )
        group = self._card.group
        traces = (
            JobTraces(tracer, self.owner, group, bus_settings.messaging_system) if tracer else None
        )
        self._scheduler = Scheduler(
            self._context,
            self._intake,
            self._slots,
            self._peers,
            self._control,
            group,
            self._beats.soon,
            traces,
        )
        self._group: GroupReader | None = None
        self._engine_is_open = False
        self._not_ready = "starting"
        self._gone = False
        self._had: tuple[int, ...] = ()  # partitions

    @property
    def model(self) -> str:
        return self._entry.id

    def unready(self) -> str:
        """Why it should get no requests; empty when it should."""
        return "draining" if self._scheduler.leaving else self._missing

    @property
    def _missing(self) -> str:
        return self._not_ready or self._upstream.reason

    async def start(self) -> None:
        """Makes its topics known, waits for its upstream, joins its group. It is ready only
        then.
        """
        for step in (self._make_topics, self._announce, self._control.start, self._peers.start):
            await self._patiently(step)
        self._beats.start()
        await self._engine.start()
        self._engine_is_open = True
        await self._wait_until_ready()
        self._context.continues = await self._engine.continues()
        await self._patiently(self._join)
        self._not_ready = ""
        self._beats.soon()
        logger.info(
            "model %s: serving topic %s as group %s",
            self._entry.id,
            self._card.topic,
            self._card.group,
        )

    def could_not_start(self, error: Exception) -> None:
        """It takes no requests until its process is started again, and says why."""
        self._not_ready = f"its start failed ({type(error).__name__}); its log says why"
        self._beats.soon()

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """A broker that is away, or that is still making a topic, is waited for."""
        await until_done(
            f"start of model {self._entry.id}'s worker", step, pause=_BUS_RETRY_SECONDS
        )

    async def _make_topics(self) -> None:
        specs = [
            *shared_specs(self._bus_settings, self._topics),
            request_spec(self._bus_settings, self._card.topic),
        ]
        for line in await self._bus.ensure_topics(specs):
            logger.warning("topic kept as it is: %s", line)

    async def _announce(self) -> None:
        """Makes the model known, for as long as nobody forgets it."""
        card = self._card
        await self._bus.send(
            self._topics.models,
            encode_message(card),
            key=card.model.encode(),
            headers=[("v", b"1")],
        )

    async def _join(self) -> None:
        buffer = max(self._slots.count, _LEAST_BUFFER)
        self._group = await self._bus.group_reader(
            self._card.topic, self._card.group, self._intake, buffer=buffer
        )
        self._intake.attach(self._group)

    async def drain(self, seconds: float) -> None:
        """Leaves the group at once, finishes what runs within `seconds`, hands back the rest."""
        self._scheduler.leaving = True
        if self._group is not None:
            await self._group.close()
        self._intake.on_revoked(self._intake.partitions)
        await self._scheduler.finish(seconds)
        self._gone = True
        await self._beats.close()
        await asyncio.gather(self._peers.close(), self._tails.close(), self._control.close())
        self._upstream.close()
        if self._engine_is_open:
            await self._engine.close()

    async def _wait_until_ready(self) -> None:
        """An upstream that is not up yet is no error; it is said once per reason."""
        while missing := self._nobody_reads() or await self._engine.check():
            if missing != self._not_ready:
                self._not_ready = missing
                logger.warning("model %s: not serving yet: %s", self._entry.id, missing)
            await asyncio.sleep(_ENGINE_CHECK_SECONDS)
        self._not_ready = "joining its group"

    def _nobody_reads(self) -> str:
        """A reply topic that no gateway reads is a mistake in the settings; without gateways there
        is nothing to say.
        """
        read = self._peers.reply_topics()
        if not read or self._topics.replies in read:
            return ""
        theirs = ", ".join(sorted(read))
        return (
            f"KAFKA_RESPONSE_TOPIC: the gateways read {theirs}, this worker would write to "
            f"{self._topics.replies}"
        )

    def _changed(self) -> None:
        """Partitions came or went: others act on that, so they hear of it at once."""
        if self._intake.partitions != self._had:
            self._had = self._intake.partitions
            REBALANCES.labels(self._card.model).inc()
        self._scheduler.pump()
        self._beats.soon()

    def _describe(self) -> WorkerHeartbeat:
        return WorkerHeartbeat(
            worker=self.owner,
            model=self._card.model,
            topic=self._card.topic,
            group=self._card.group,
            replies=self._topics.replies,
            time=time.time(),
            interval=self._interval,
            aliases=self._entry.aliases,
            partitions=self._intake.partitions,
            positions=self._intake.positions,
            capacity=self._slots.count,
            in_flight=len(self._scheduler.running),
            waiting=self._intake.waiting,
            running=self._scheduler.running,
            ready=not self._missing,
            reason=self._missing,
            leaving=self._scheduler.leaving,
            gone=self._gone,
            host=platform.node(),
            version=__version__,
        )
