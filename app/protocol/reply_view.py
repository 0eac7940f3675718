"""A reply as every reader sees it so far: its records folded by the one rule, and those that
count.
"""

from dataclasses import dataclass, field

from app.errors import UndecodableRecord
from app.protocol.records import Headers, ReplyRecord
from app.protocol.reply_batch import replies_of
from app.protocol.reply_state import ReplyState, Step


@dataclass(slots=True)
class ReplyView:
    fold: ReplyState = field(default_factory=ReplyState)
    parts: list[ReplyRecord] = field(default_factory=list)
    deaths: int = 0  # as the last claim that counts has it
    dead: tuple[str, ...] = ()  # the same: those of them that have a name
    progressed: bool = False  # something was written since that claim
    # when its first record was written: by the log's clock, milliseconds; 0: not known
    began: int = 0
    truncated: bool = False  # its first records may be gone from the log

    def add(self, reply: ReplyRecord) -> Step:
        step = self.fold.apply(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if step is Step.CLAIMED:
            self.deaths, self.dead, self.progressed = reply.deaths, reply.dead, False
        elif step is not Step.IGNORED:
            self.progressed = True
            self.parts.append(reply)
        return step

    def read(self, headers: Headers, value: bytes | None, id_: bytes, timestamp: int = 0) -> None:
        """Take what a record says of this reply; one that is not in our format is not there for a
        reader.
        """
        try:
            for reply in replies_of(headers, value, (id_,)):
                if self.add(reply) is not Step.IGNORED:
                    self.began = self.began or timestamp
        except UndecodableRecord:
            return

    @property
    def text(self) -> bytes:
        """All events that a client may have seen."""
        return b"".join(part.value for part in self.parts)
