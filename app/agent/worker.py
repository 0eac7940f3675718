"""A worker: one model's member of its consumer group. Takes requests while it has free slots and answers them."""

import asyncio
import logging
import platform
import secrets
import time
from asyncio import Task

from app import __version__
from app.agent.beats import Beats, announce
from app.agent.control import ControlReader
from app.agent.engines.base import Engine
from app.agent.intake import Intake, Taken
from app.agent.reply_writer import ReplyWriter
from app.agent.run_job import JobRun
from app.bus.base import Bus, GroupReader
from app.bus.specs import request_spec, shared_specs
from app.catalog import ModelEntry
from app.contracts.envelope import Control, Request
from app.contracts.presence import WorkerBeat
from app.contracts.topics import Topics
from app.errors import BusError, UndecodableRecord
from app.settings import BusSettings, WorkerSettings

logger = logging.getLogger("app.agent")

_ENGINE_CHECK_SECONDS = 1.0
_BUS_RETRY_SECONDS = 1.0


class Worker:
    """`start`, then it works by itself until `drain`."""

    def __init__(self, bus: Bus, bus_settings: BusSettings, settings: WorkerSettings, entry: ModelEntry, engine: Engine) -> None:
        self._bus = bus
        self._bus_settings = bus_settings
        self._settings = settings
        self._entry = entry
        self._engine = engine
        self.owner = secrets.token_hex(8)
        self._topics = Topics.named(bus_settings.prefix, bus_settings.response_topic)
        self._card = entry.card(bus_settings.prefix, int(time.time()))
        self._names = {entry.id, *entry.aliases}
        self._slots = entry.concurrency or settings.concurrency
        self._running: dict[str, Task[None]] = {}
        self._intake = Intake(self._changed)
        self._beats = Beats(bus, self._topics.workers, settings.heartbeat, self._describe)
        self._control = ControlReader(bus, self._topics.control, settings.request_timeout, self._on_control)
        self._group: GroupReader | None = None
        self._not_ready = "starting"
        self._leaving = False
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Makes its topics known, waits for its upstream, joins its group."""
        await self._make_topics()
        await announce(self._bus, self._topics.models, self._card)
        await self._control.start()
        self._beats.start()
        await self._engine.start()
        await self._wait_for_engine()
        self._group = await self._bus.group_reader(self._card.topic, self._card.group, self._intake, buffer=max(self._slots, 8))
        self._intake.attach(self._group)
        logger.info("model %s: serving topic %s as group %s", self._entry.id, self._card.topic, self._card.group)

    async def drain(self, seconds: float) -> None:
        """Leaves the group at once, finishes what runs within `seconds`, hands back the rest."""
        self._leaving = True
        self._beats.soon()
        if self._running:
            self._idle.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
            except TimeoutError:
                logger.warning("model %s: %d requests are handed back unfinished", self._entry.id, len(self._running))
        await self.close()

    async def close(self) -> None:
        self._leaving = True
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._group is not None:
            await self._group.close()
        await self._beats.close()
        await self._control.close()
        await self._engine.close()

    async def _make_topics(self) -> None:
        specs = [*shared_specs(self._bus_settings, self._topics), request_spec(self._bus_settings, self._card.topic)]
        while True:
            try:
                for line in await self._bus.ensure_topics(specs):
                    logger.warning("topic kept as it is: %s", line)
                return
            except BusError as error:
                logger.warning("topics cannot be made yet: %s", error)
                await asyncio.sleep(_BUS_RETRY_SECONDS)

    async def _wait_for_engine(self) -> None:
        """An upstream that is not up yet is no error; it is said once per reason."""
        said = ""
        while self._not_ready:
            self._not_ready = await self._engine.check()
            if self._not_ready and self._not_ready != said:
                said = self._not_ready
                logger.warning("model %s: waiting for its upstream: %s", self._entry.id, said)
            if self._not_ready:
                await asyncio.sleep(_ENGINE_CHECK_SECONDS)
        self._beats.soon()

    def _changed(self) -> None:
        self._pump()
        self._beats.soon()

    def _pump(self) -> None:
        while len(self._running) < self._slots and not self._leaving:
            taken = self._intake.take()
            if taken is None:
                return
            self._begin(taken)

    def _begin(self, taken: Taken) -> None:
        try:
            request = Request.decode(taken.record.headers, taken.record.value)
        except UndecodableRecord as error:
            logger.error("undecodable record at %s[%d]@%d: %s", *taken.record[:3], error)
            self._intake.done(taken)
            return
        if request.model not in self._names or self._control.is_cancelled(request.id) or request.id in self._running:
            self._intake.done(taken)  # another model's, on a topic that two share; or nobody waits for it any more
            return
        task = asyncio.create_task(self._work(request, taken))
        self._running[request.id] = task

    async def _work(self, request: Request, taken: Taken) -> None:
        writer = ReplyWriter(self._bus, self._topics.replies, request.reply_partition, request.id, self.owner)
        try:
            await JobRun(self._engine, self._entry, self.owner, self._bus.deployment, request, writer).run()
            self._intake.done(taken)
        except asyncio.CancelledError:
            writer.abandon()
            if not self._leaving:  # cancelled by its caller: its outcome is in the log already
                self._intake.done(taken)
        finally:
            self._running.pop(request.id, None)
            if not self._running:
                self._idle.set()
            self._pump()

    def _on_control(self, control: Control) -> None:
        task = self._running.get(control.id)
        if task is None or (control.kind == Control.CLAIM and control.supersedes != self.owner):
            return
        task.cancel()

    def _describe(self) -> WorkerBeat:
        return WorkerBeat(
            worker=self.owner,
            model=self._card.model,
            topic=self._card.topic,
            group=self._card.group,
            replies=self._topics.replies,
            time=time.time(),
            interval=self._settings.heartbeat,
            aliases=self._entry.aliases,
            partitions=self._intake.partitions,
            positions=self._intake.positions,
            capacity=self._slots,
            in_flight=len(self._running),
            waiting=self._intake.waiting,
            running=tuple(self._running),
            ready=not self._not_ready,
            reason=self._not_ready,
            leaving=self._leaving,
            host=platform.node(),
            version=__version__,
        )
