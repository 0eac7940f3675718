"""Who writes a reply: one rule, applied in log order by every reader (gateway, resume, recorder,
worker).

A writer is a worker process, named by its `owner`. The first record of an id makes its owner the
writer. A `claim` names the owner it supersedes (or none) and counts only if that owner is the
writer at the claim's own place in the log. A claim by nobody hands the reply back: from there on
only another claim makes a writer. A gateway's `cancelled` or `expired` counts from any gateway. The
first final record is the outcome; nothing counts after it. Records of anybody who is not the
writer, and records out of sequence, are not there for a reader.

So a worker that was stopped, cut off or declared dead may write what it likes: no reader sees it.
"""

from dataclasses import dataclass
from enum import Enum

DATA, FINAL, CLAIM = "data", "final", "claim"
COMPLETED, FAILED, CANCELLED, EXPIRED = "completed", "failed", "cancelled", "expired"
OUTCOMES = frozenset({COMPLETED, FAILED, CANCELLED, EXPIRED})
GATEWAY_OUTCOMES = frozenset({CANCELLED, EXPIRED})


class Step(Enum):
    """What one record means to a reader."""

    IGNORED = "ignored"  # not there for a reader
    CLAIMED = "claimed"  # the writer changed
    PART = "part"  # the reply goes on
    ENDED = "ended"  # the reply's last record


@dataclass(slots=True)
class ReplyState:
    """The state of one reply after the records seen so far."""

    writer: str = ""
    next_seq: int = 0
    outcome: str = ""
    attempts: int = 0  # writers so far

    def apply(
        self,
        kind: str,
        owner: str,
        seq: int,
        *,
        outcome: str = "",
        supersedes: str = "",
        by_gateway: bool = False,
    ) -> Step:
        """Takes the next record of this id in log order."""
        if self.outcome:
            return Step.IGNORED
        if by_gateway:
            return (
                self._end(outcome)
                if kind == FINAL and outcome in GATEWAY_OUTCOMES
                else Step.IGNORED
            )
        if kind == CLAIM:
            return self._claim(owner) if supersedes == self.writer else Step.IGNORED
        return self._write(kind, owner, seq, outcome)

    def _claim(self, owner: str) -> Step:
        self.writer = owner
        self.attempts += bool(owner)  # without one it is handed back
        return Step.CLAIMED

    def _write(self, kind: str, owner: str, seq: int, outcome: str) -> Step:
        if seq != self.next_seq or (self.attempts and owner != self.writer):
            return Step.IGNORED
        if not self.attempts:
            self.writer, self.attempts = owner, 1
        self.next_seq += 1
        return self._end(outcome) if kind == FINAL else Step.PART

    def _end(self, outcome: str) -> Step:
        self.outcome = outcome
        return Step.ENDED
