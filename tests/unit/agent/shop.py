"""A bus, an engine that answers as a test says, and what a worker's jobs share."""

from typing import Any

from app.agent.engines.base import EngineUnreachable
from app.agent.engines.upstream_watch import UpstreamWatch
from app.agent.reply.job_context import JobContext
from app.agent.reply.job_run import JobRun
from app.agent.reply.reply_batcher import ReplyBatcher
from app.config.model_entry import ModelEntry
from app.protocol.records import RequestRecord
from app.protocol.reply_view import ReplyView
from app.reply_log.backlog_feed import ReplyTails
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_lookup import ReplyLookup
from tests.unit.agent.scripted_engine import ScriptedAnswer, ScriptedEngine
from tests.unit.scene import (
    MODEL,
    TOPICS,
    ScriptedBus,
    chunks,
    request,
    started_bus,
)

NOW = 1_800_000_000.0


PLAIN: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "count"}]}


class Shop:
    """A bus and what a worker's jobs share."""

    def __init__(
        self, bus: ScriptedBus, engine: ScriptedEngine, retries: int = 2, **entry: Any
    ) -> None:
        self.bus = bus
        self.engine = engine
        self.entry = ModelEntry(id=MODEL, host="http://up", **entry)
        self.lookup = ReplyLookup(RecordScanner(bus), TOPICS.replies)
        self.context = JobContext(
            bus=bus,
            topics=TOPICS,
            entry=self.entry,
            engine=engine,
            owner="worker-1",
            lookup=self.lookup,
            tails=ReplyTails(bus, TOPICS.replies, self.lookup),
            outbox=ReplyBatcher(bus, TOPICS.replies, lambda: True),
            upstream=UpstreamWatch(engine, MODEL, lambda: None),
            retries=retries,
            most_event=1_000_000,
            most_body=1_000_000,
        )

    async def run(self, asked: RequestRecord, seen: ReplyView | None = None) -> ReplyView:
        """What a reader sees of the reply in the end."""
        await JobRun(self.context, asked, seen or ReplyView()).run()
        return await self.lookup.look(asked)


async def shop(
    *answers: ScriptedAnswer | EngineUnreachable, continues: bool = True, **more: Any
) -> Shop:
    found = Shop(await started_bus(), ScriptedEngine(*answers), **more)
    found.context.continues = continues
    return found


def asked(**members: Any) -> RequestRecord:
    return request(now=NOW, **members)


def error_of(block: bytes) -> Any:
    """The error at the end of a stream."""
    return chunks(block)[-1]["error"]
