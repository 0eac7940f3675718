"""The rule of who may write a reply.

Every reader (gateway, resume, recorder, worker) applies it in log order.

A writer is a worker process, named by its `owner`. The first record of an id makes its owner the
writer. A `claim` names the owner it supersedes (or none) and counts only if that owner is the
writer at the claim's own place in the log. A claim by no owner hands the reply back: from there on
only another claim makes a writer. A gateway's `cancelled` or `expired` counts from any gateway. The
first final record is the outcome; nothing counts after it. Records of anybody who is not the
writer, and records out of sequence, are not there for a reader.

So a worker that was stopped, cut off or declared dead may go on writing: no reader accepts it.
"""

from dataclasses import dataclass
from enum import Enum

DATA, FINAL, CLAIM = "data", "final", "claim"
COMPLETED, FAILED, CANCELLED, EXPIRED = "completed", "failed", "cancelled", "expired"
OUTCOMES = frozenset({COMPLETED, FAILED, CANCELLED, EXPIRED})
GATEWAY_OUTCOMES = frozenset({CANCELLED, EXPIRED})


class RecordEffect(Enum):
    """What one record means to a reader."""

    IGNORED = "ignored"  # not there for a reader
    CLAIMED = "claimed"  # the writer changed
    APPENDED = "part"  # the reply goes on
    ENDED = "ended"  # the reply's last record


@dataclass(slots=True)
class ReplyState:
    """The state of one reply after the records seen so far."""

    writer: str = ""
    next_seq: int = 0
    outcome: str = ""
    attempts: int = 0  # writers so far

    def apply_record(
        self,
        kind: str,
        owner: str,
        seq: int,
        *,
        outcome: str = "",
        supersedes: str = "",
        by_gateway: bool = False,
    ) -> RecordEffect:
        """Apply the next record of this id, in log order, and return its effect."""
        if self.outcome:
            return RecordEffect.IGNORED
        if by_gateway:
            return (
                self._set_outcome(outcome)
                if kind == FINAL and outcome in GATEWAY_OUTCOMES
                else RecordEffect.IGNORED
            )
        if kind == CLAIM:
            return self._apply_claim(owner) if supersedes == self.writer else RecordEffect.IGNORED
        return self._apply_part(kind, owner, seq, outcome)

    def _apply_claim(self, owner: str) -> RecordEffect:
        self.writer = owner
        self.attempts += bool(owner)  # without one it is handed back
        return RecordEffect.CLAIMED

    def _apply_part(self, kind: str, owner: str, seq: int, outcome: str) -> RecordEffect:
        if seq != self.next_seq or (self.attempts and owner != self.writer):
            return RecordEffect.IGNORED
        if not self.attempts:
            self.writer, self.attempts = owner, 1
        self.next_seq += 1
        return self._set_outcome(outcome) if kind == FINAL else RecordEffect.APPENDED

    def _set_outcome(self, outcome: str) -> RecordEffect:
        self.outcome = outcome
        return RecordEffect.ENDED
