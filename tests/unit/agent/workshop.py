"""Workers with scripted engines on one memory bus, and peers that are nothing but their
heartbeats.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from app.agent.worker import Worker
from app.config.model_entry import ModelEntry
from app.protocol.heartbeats import WorkerHeartbeat, encode_message
from app.protocol.records import ControlRecord, ReplyRecord, RequestRecord
from app.protocol.reply_state import CLAIM, DATA
from app.protocol.reply_view import ReplyView
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_lookup import ReplyLookup
from app.telemetry.tracing import Tracer
from tests.unit.agent.scripted_engine import ScriptedEngine
from tests.unit.scene import (
    MODEL,
    REQUESTS,
    TOPICS,
    ScriptedBus,
    request,
    send_reply,
    send_request,
    settings,
    started_bus,
    turns,
)

GROUP = "llm.m"


class Peer:
    """Another worker of the group, as far as its heartbeats go: one a second until it falls
    silent.
    """

    def __init__(self, bus: ScriptedBus, name: str) -> None:
        self.bus = bus
        self.beat = WorkerHeartbeat(name, MODEL, REQUESTS, GROUP, TOPICS.replies, 0.0, 1.0)
        self._task: asyncio.Task[None] | None = None

    async def says(self, **members: object) -> None:
        """Beats now, and from now on with this."""
        self.beat = replace(self.beat, time=time.time(), **members)  # type: ignore[arg-type]
        await self.bus.send(
            TOPICS.workers,
            encode_message(self.beat),
            key=self.beat.worker.encode(),
            headers=[("v", b"1")],
        )
        if self._task is None:
            self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self.says()

    async def falls_silent(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


class Workshop:
    def __init__(self, bus: ScriptedBus) -> None:
        self.bus = bus
        self.workers: list[Worker] = []
        self.peers: list[Peer] = []
        self._lookup = ReplyLookup(RecordScanner(bus), TOPICS.replies)

    async def worker(
        self,
        engine: ScriptedEngine,
        *,
        concurrency: int = 4,
        group: str = GROUP,
        join: bool = True,
        tracer: Tracer | None = None,
    ) -> Worker:
        ours = settings()
        entry = ModelEntry(id=MODEL, host="http://up", concurrency=concurrency, group=group)
        worker = Worker(self.bus, ours.bus, ours.worker, entry, engine, tracer)
        self.workers.append(worker)
        if join:
            await worker.start()
            await turns()  # its partitions are assigned
        return worker

    def peer(self, name: str) -> Peer:
        self.peers.append(Peer(self.bus, name))
        return self.peers[-1]

    async def ask(self, *, partition: int = 0, deaths: int = 0, **members: object) -> RequestRecord:
        """Writes a request, one after the claims of so many workers that wrote nothing; nobody has
        to serve it yet.
        """
        asked = request(now=time.time(), **members)
        for number in range(deaths):
            await self.claims(
                asked, f"dead-{number}", f"dead-{number - 1}" if number else "", number
            )
        await send_request(self.bus, asked, partition)
        return asked

    async def writes(self, asked: RequestRecord, owner: str, *blocks: bytes, seq: int = 0) -> None:
        """What another worker has written of the reply."""
        for number, block in enumerate(blocks):
            await send_reply(self.bus, ReplyRecord(asked.id, owner, DATA, seq + number, block))

    async def claims(
        self,
        asked: RequestRecord,
        owner: str,
        supersedes: str = "",
        deaths: int = 0,
        *,
        signal: bool = False,
    ) -> None:
        await send_reply(
            self.bus, ReplyRecord(asked.id, owner, CLAIM, supersedes=supersedes, deaths=deaths)
        )
        if signal:
            await self.signal(ControlRecord(asked.id, ControlRecord.CLAIM, owner, supersedes))

    async def signal(self, control: ControlRecord) -> None:
        await self.bus.send(
            TOPICS.control, b"", key=control.id.encode(), headers=control.encode_headers()
        )

    async def seen(self, asked: RequestRecord) -> ReplyView:
        return await self._lookup.look(asked)

    async def ended(self, asked: RequestRecord, seconds: float = 300) -> ReplyView:
        """The reply, once it has its outcome."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (seen := await self.seen(asked)).state.outcome:
            assert loop.time() < end, "the request does not end"
            await asyncio.sleep(0.05)
        return seen

    async def committed(self, count: int, group: str = GROUP, partition: int = 0) -> None:
        """Waits until so many records of a partition are done."""
        found: dict[int, int] = {}

        async def look() -> None:
            while found.get(partition, 0) < count:
                await asyncio.sleep(0.05)
                found.update(await self.bus.committed(REQUESTS, group))

        await asyncio.wait_for(look(), 300)
        assert found.get(partition, 0) == count

    async def close(self) -> None:
        for peer in self.peers:
            await peer.falls_silent()
        for worker in self.workers:
            await worker.drain(0)


@asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    shop = Workshop(await started_bus())
    try:
        yield shop
    finally:
        await shop.close()
