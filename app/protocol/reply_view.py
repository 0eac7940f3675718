"""A reply as every reader sees it so far: its state, and the records that count."""

from dataclasses import dataclass, field

from app.errors import UndecodableRecord
from app.protocol.records import Headers, ReplyRecord
from app.protocol.reply_batch import decode_replies
from app.protocol.reply_state import RecordEffect, ReplyState


@dataclass(slots=True)
class ReplyView:
    state: ReplyState = field(default_factory=ReplyState)
    parts: list[ReplyRecord] = field(default_factory=list)
    deaths: int = 0  # as the last claim that counts has it
    dead: tuple[str, ...] = ()  # the same: those of them that have a name
    has_progressed: bool = False  # something was written since that claim
    # when its first record was written: by the log's clock, milliseconds; 0: not known
    started_at_ms: int = 0
    is_truncated: bool = False  # its first records may be gone from the log

    def apply_record(self, reply: ReplyRecord) -> RecordEffect:
        effect = self.state.apply_record(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if effect is RecordEffect.CLAIMED:
            self.deaths, self.dead, self.has_progressed = reply.deaths, reply.dead, False
        elif effect is not RecordEffect.IGNORED:
            self.has_progressed = True
            self.parts.append(reply)
        return effect

    def apply_log_record(
        self, headers: Headers, value: bytes | None, id_: bytes, timestamp_ms: int = 0
    ) -> None:
        """Apply the parts of a log record that belong to this reply.

        A record that cannot be decoded is ignored.
        """
        try:
            for reply in decode_replies(headers, value, (id_,)):
                if self.apply_record(reply) is not RecordEffect.IGNORED:
                    self.started_at_ms = self.started_at_ms or timestamp_ms
        except UndecodableRecord:
            return

    @property
    def text(self) -> bytes:
        """All events that a client may have seen."""
        return b"".join(part.value for part in self.parts)
