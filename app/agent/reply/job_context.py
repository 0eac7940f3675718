"""What every job of one worker shares."""

from dataclasses import dataclass

from app.agent.engines.base import Engine
from app.agent.engines.upstream_watch import UpstreamWatch
from app.agent.reply.reply_batcher import ReplyBatcher
from app.agent.reply.reply_writer import ReplyWriter
from app.bus.base import Bus
from app.config.model_entry import ModelEntry
from app.protocol.records import RequestRecord
from app.protocol.topics import Topics
from app.reply_log.backlog_feed import ReplyTails
from app.reply_log.reply_lookup import ReplyLookup


@dataclass(slots=True)
class JobContext:
    bus: Bus
    topics: Topics
    entry: ModelEntry
    engine: Engine
    owner: str
    lookup: ReplyLookup
    tails: ReplyTails
    outbox: ReplyBatcher
    upstream: UpstreamWatch
    retries: int  # of an upstream that breaks off
    most_event: int  # bytes of the largest event of a stream: a larger one fits into no record
    most_body: int  # bytes of the largest whole reply
    continues: bool = False  # the upstream can go on from a text
    # monotonic: until then the upstream is not asked with `stream_options`
    usage_refused_until: float = 0.0

    def writer(self, request: RequestRecord, *, seq: int = 0, event: int = 1) -> ReplyWriter:
        return ReplyWriter(
            self.outbox, request.reply_partition, request.id, self.owner, seq=seq, event=event
        )
