"""What becomes of each record a worker takes: run at once if it is certainly new, else settled with
the log first.
"""

import asyncio
import logging
import time
from asyncio import Task
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from app.agent.consume.cancellations import Cancellations
from app.agent.consume.concurrency_limiter import ConcurrencyLimiter
from app.agent.consume.dead_letters import dead_letter
from app.agent.consume.partition_buffers import PartitionBuffers, Taken
from app.agent.consume.takeover import SUSPECT_DEATHS, Takeover
from app.agent.consume.tracing import JobTraces
from app.agent.reply.job_context import JobContext
from app.agent.reply.job_run import JobRun
from app.cluster.peers import Peers
from app.errors import UndecodableRecord
from app.protocol.records import ControlRecord, RequestRecord
from app.protocol.reply_view import ReplyView
from app.telemetry.metrics import DEAD_LETTERS

logger = logging.getLogger("app.agent")

_LEAST_SECONDS = 5.0  # for what is told to end, and to hand back, where no grace is left
_MOST_SETTLING = 256  # records of one half being looked up or waiting for a slot


@dataclass(slots=True)
class _Running:
    request: RequestRecord
    taken: Taken
    task: "Task[None]"
    superseded: bool = False  # another worker's claim counted


class Scheduler:
    """`pump` starts what can be started. `leaving` stops that."""

    def __init__(
        self,
        context: JobContext,
        intake: PartitionBuffers,
        slots: ConcurrencyLimiter,
        peers: Peers,
        control: Cancellations,
        group: str,
        changed: Callable[[], None],
        traces: JobTraces | None = None,
    ) -> None:
        self._context = context
        self._intake = intake
        self._slots = slots
        self._peers = peers
        self._control = control
        self._group = group
        self._changed = changed  # what runs has changed
        self._traces = traces
        self._takeover = Takeover(context, peers)
        self._names = {context.entry.id, *context.entry.aliases}
        # ids that this worker claims or runs; set when it lets go of one
        self._mine: dict[str, asyncio.Event] = {}
        self._running: dict[str, _Running] = {}
        # of the quiet half, of the crowd's
        self._settling: tuple[set[Task[None]], set[Task[None]]] = (set(), set())
        self._idle = asyncio.Event()
        self._idle.set()
        self.leaving = False

    @property
    def running(self) -> tuple[str, ...]:
        """What it runs or is just claiming: the others leave it to this worker, also where they own
        its partition now.
        """
        return tuple(self._mine)

    def pump(self) -> None:
        while not self.leaving and self._slots.try_take():
            taken = self._next()
            if taken is None or not self._begin(taken):
                self._slots.give()
            if taken is None:
                return

    def _next(self) -> Taken | None:
        quiet, crowd = self._settling
        if not quiet and not crowd:  # the steady state
            return self._intake.take()
        return self._intake.take(
            quiet=self._may_settle_more(False), crowd=self._may_settle_more(True)
        )

    def begin_quiet(self) -> bool:
        """Begins a request of the quiet half in a slot that is held for it; False if none waits
        that can begin at once.
        """
        while not self.leaving and self._may_settle_more(False):
            taken = self._intake.take(crowd=False)
            if taken is None or self._begin(taken):
                return taken is not None
        return False

    def _may_settle_more(self, crowd: bool) -> bool:
        """What others run is held and does not count: else who takes a busy worker's partitions
        would start nothing new.
        """
        settling = len(self._settling[crowd])
        return settling < _MOST_SETTLING or settling < _MOST_SETTLING + self._peers.running_count()

    def _begin(self, taken: Taken) -> bool:
        """True if the record runs now, in the slot that was taken for it."""
        try:
            request = RequestRecord.decode(taken.record.headers, taken.record.value)
        except UndecodableRecord as error:
            self._spawn(self._bury_undecodable(taken, str(error)), taken)
            return False
        if request.model not in self._names or self._control.is_cancelled(request.id):
            # another model's, on a topic that two share; or nobody waits for it any more
            self._intake.done(taken)
            return False
        # it may have expired in the log, though no cancel has come here yet
        late = request.deadline < time.time() * 1000
        if (
            late
            or taken.redelivery
            or request.maybe_duplicate
            or request.id in self._mine
            or self._peers.runs(request.id)
        ):
            self._spawn(self._settle(request, taken), taken)
            return False
        self._mine[request.id] = asyncio.Event()
        self._run(request, taken, ReplyView())
        return True

    def _run(self, request: RequestRecord, taken: Taken, seen: ReplyView) -> None:
        job = JobRun(self._context, request, seen)
        traces = self._traces
        task = asyncio.create_task(
            job.run() if traces is None else traces.run(job, request, taken.record, seen)
        )
        running = self._running[request.id] = _Running(request, taken, task)
        self._idle.clear()
        task.add_done_callback(lambda done: self._ended(running, job, done))
        if taken.redelivery:
            self._changed()  # the others wait to hear who has it

    def _ended(self, running: _Running, job: JobRun, task: "Task[None]") -> None:
        del self._running[running.request.id]
        self._let_go(running.request.id)
        if task.cancelled():
            job.abandon()
        elif (error := task.exception()) is not None:
            logger.error("a job failed", exc_info=error, extra={"request_id": running.request.id})
        if running.superseded or (not task.cancelled() and task.exception() is not None):
            self._spawn(self._settle(running.request, running.taken), running.taken)
        elif not (task.cancelled() and self.leaving):
            self._intake.done(running.taken)
        if not self._running:
            self._idle.set()
        self.pump()

    def _spawn(self, work: Coroutine[None, None, None], taken: Taken) -> None:
        task = asyncio.create_task(work)
        self._settling[taken.crowd].add(task)
        task.add_done_callback(lambda done: self._settled(done, taken.crowd))

    def _settled(self, task: "Task[None]", crowd: bool) -> None:
        self._settling[crowd].discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a record could not be settled", exc_info=error)
        self.pump()

    async def _settle(self, request: RequestRecord, taken: Taken) -> None:
        """Waits until nobody else has it, claims it, runs it; or finds that it has ended."""
        while self._intake.owns(taken):
            mine = self._mine.get(request.id)
            if mine is not None:  # it lies in the log twice, or came a second time
                await mine.wait()
                continue
            seen = await self._takeover.wait(request, self._group, taken.record.partition)
            if seen is None or self._control.is_cancelled(request.id):
                self._intake.done(taken)
                return
            deaths = self._takeover.deaths(request, seen)
            with self._intake.queued(taken):
                await self._slots.take(alone=deaths >= SUSPECT_DEATHS, crowd=taken.crowd)
            if await self._take_over(request, taken, seen, deaths):
                return

    async def _take_over(
        self, request: RequestRecord, taken: Taken, seen: ReplyView, deaths: int
    ) -> bool:
        """In the slot that was taken for it. False if somebody else was quicker, or a cancel."""
        elsewhere = request.id in self._mine or self._peers.runs(request.id)
        if elsewhere or not self._intake.owns(taken) or self._control.is_cancelled(request.id):
            self._slots.give()
            return False
        self._mine[request.id] = asyncio.Event()
        try:
            claimed = await self._takeover.claim(request, seen, deaths)
            if claimed is not None and not self._takeover.is_poison(request, deaths):
                self._run(request, taken, claimed)
            elif claimed is not None:
                record = taken.record
                origin = (record.topic, record.partition, record.offset)
                await self._takeover.bury(request, claimed, origin, record.headers)
                self._intake.done(taken)
            return claimed is not None
        except (
            asyncio.CancelledError
        ):  # told to end: without this the claim would look like a death
            await self._takeover.hand_back(request)
            raise
        finally:
            if request.id not in self._running:
                self._let_go(request.id)

    def _let_go(self, id_: str) -> None:
        """This worker has nothing more to do with the request, and its slot is free."""
        self._mine.pop(id_).set()
        self._slots.give()

    async def _bury_undecodable(self, taken: Taken, why: str) -> None:
        record = taken.record
        origin = (record.topic, record.partition, record.offset)
        logger.error("undecodable record at %s[%d]@%d: %s", *origin, why)
        await dead_letter(
            self._context.bus, self._context.topics.dlq, origin, record.headers, record.value, why
        )
        DEAD_LETTERS.labels(self._context.entry.id).inc()
        self._intake.done(taken)

    def on_control(self, control: ControlRecord) -> None:
        running = self._running.get(control.id)
        if running is None or control.owner == self._context.owner:
            return
        if control.kind == ControlRecord.CANCEL:
            running.task.cancel()
        else:
            self._spawn(self._verify(running), running.taken)

    async def _verify(self, running: _Running) -> None:
        """Somebody has claimed what runs here. If the claim counts, this worker is the zombie:
        nobody reads what it writes.
        """
        if not await self._takeover.verify(running.request) and not running.task.done():
            running.superseded = True
            running.task.cancel()

    async def finish(self, seconds: float) -> None:
        """Takes nothing new, waits for what runs, at most that long, and hands back the rest."""
        self.leaving = True
        end = asyncio.get_running_loop().time() + seconds
        settling = [*self._settling[False], *self._settling[True]]
        for task in settling:
            task.cancel()
        await _ended(settling, end)
        try:
            async with asyncio.timeout_at(end):
                await self._idle.wait()
        except TimeoutError:
            logger.warning(
                "model %s: %d requests are handed back unfinished",
                self._context.entry.id,
                len(self._running),
            )
        left = list(self._running.values())
        for running in left:
            running.task.cancel()
        await _ended([running.task for running in left], end)
        if late := await _ended(
            [asyncio.create_task(self._takeover.hand_back(running.request)) for running in left],
            end,
        ):
            logger.warning(
                "model %s: %d requests could not be handed back in time",
                self._context.entry.id,
                late,
            )


async def _ended(tasks: Sequence[Task[None]], end: float) -> int:
    """Waits until they have ended, or this time by the loop's clock, or the least time. Stops and
    counts those that have not.
    """
    if not tasks:
        return 0
    left = max(_LEAST_SECONDS, end - asyncio.get_running_loop().time())
    _, late = await asyncio.wait(tasks, timeout=left)
    for task in late:
        task.cancel()
    return len(late)
