"""Who writes a reply: whatever is written by whom, every reader sees one writer at a time, one
text, one outcome.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.reply_state import (
    CANCELLED,
    CLAIM,
    COMPLETED,
    DATA,
    EXPIRED,
    FAILED,
    FINAL,
    OUTCOMES,
    RecordEffect,
    ReplyState,
)


class Written(NamedTuple):
    kind: str
    owner: str
    seq: int = 0
    outcome: str = ""
    supersedes: str = ""
    by_gateway: bool = False


def read(
    log: list[Written], fold: ReplyState | None = None
) -> tuple[ReplyState, list[RecordEffect]]:
    """What a reader makes of a log, from a state it had before."""
    fold = fold or ReplyState()
    return fold, [
        fold.apply_record(
            r.kind,
            r.owner,
            r.seq,
            outcome=r.outcome,
            supersedes=r.supersedes,
            by_gateway=r.by_gateway,
        )
        for r in log
    ]


OWNERS = st.sampled_from(["a", "b", "c"])
SEQS = st.integers(0, 4)
ANYTHING = st.lists(
    st.builds(Written, st.just(DATA), OWNERS, SEQS)
    | st.builds(Written, st.just(FINAL), OWNERS, SEQS, st.sampled_from(sorted(OUTCOMES)))
    | st.builds(
        Written, st.just(CLAIM), OWNERS, SEQS, supersedes=st.sampled_from(["", "a", "b", "c"])
    )
    | st.builds(
        Written,
        st.sampled_from([DATA, FINAL, CLAIM]),
        st.just("g"),
        SEQS,
        st.sampled_from(sorted(OUTCOMES)),
        st.sampled_from(["", "a"]),
        st.just(True),
    ),
    max_size=30,
)


def check(log: list[Written]) -> None:
    """The promises, for any log."""
    fold, steps = read(log)
    assert steps.count(RecordEffect.ENDED) == (1 if fold.outcome else 0)
    if fold.outcome:
        end = steps.index(RecordEffect.ENDED)
        assert log[end].outcome == fold.outcome
        assert set(steps[end + 1 :]) <= {RecordEffect.IGNORED}
    writer, seq = "", 0
    for record, step in zip(log, steps, strict=True):
        if step is RecordEffect.CLAIMED:
            assert record.supersedes == writer, (
                "a claim counts only against the writer of its place"
            )
            writer = record.owner
        elif step is not RecordEffect.IGNORED and not record.by_gateway:
            writer = writer or record.owner
            assert record.owner == writer, "only the writer is there for a reader"
            assert record.seq == seq
            seq += 1
        elif step is RecordEffect.ENDED:
            assert record.outcome in {CANCELLED, EXPIRED}
    assert (fold.writer, fold.next_seq) == (writer, seq)


@given(ANYTHING)
def test_one_writer_at_a_time_one_outcome_and_no_gap(log):
    check(log)


@given(ANYTHING, st.integers(0, 30))
def test_all_readers_agree_whatever_prefix_they_started_to_share(log, cut):
    whole, steps = read(log)
    early, early_steps = read(log[:cut])
    assert early_steps == steps[:cut], "what a reader was told is never taken back"
    late, late_steps = read(log[cut:], replace(early))
    assert (late, early_steps + late_steps) == (whole, steps)


@dataclass
class Worker:
    """Follows the protocol, and never hears that it has lost: a zombie. Values are the sequence
    numbers they stand for.
    """

    name: str
    log: list[Written]
    seq: int = -1  # the next it will write; negative: it does not write
    supersedes: str = ""
    claimed_at: int = -1

    def run(self) -> None:
        self.seq = 0

    def look(self) -> None:
        self.supersedes = read(self.log)[0].writer

    def claim(self) -> None:
        self.claimed_at = len(self.log)
        self.log.append(Written(CLAIM, self.name, supersedes=self.supersedes))

    def check(self) -> None:
        """Goes on from exactly the prefix found at its claim's own place, if the claim counted."""
        fold, steps = read(self.log[: self.claimed_at + 1])
        if self.claimed_at >= 0 and steps[-1] is RecordEffect.CLAIMED:
            self.seq = fold.next_seq

    def write(self) -> None:
        if self.seq >= 0:
            self.log.append(Written(DATA, self.name, self.seq))
            self.seq += 1

    def finish(self) -> None:
        if self.seq >= 0:
            self.log.append(Written(FINAL, self.name, self.seq, COMPLETED))
            self.seq = -1

    def fail(self) -> None:
        if self.seq >= 0:
            self.log.append(Written(FINAL, self.name, self.seq, FAILED))
            self.seq = -1

    def cancel(self) -> None:
        """As a gateway does."""
        self.log.append(Written(FINAL, "gateway", outcome=CANCELLED, by_gateway=True))


def played(moves: list[tuple[str, str]]) -> list[Written]:
    """The log after these moves of these actors, with a taker at the end who finds nobody else at
    work.
    """
    log: list[Written] = []
    actors = {name: Worker(name, log) for name in "abcg"}
    for name, move in moves:
        getattr(actors[name], move)()
    for move in ("look", "claim", "check", "write", "finish"):
        getattr(actors["c"], move)()
    return log


def check_played(log: list[Written]) -> None:
    check(log)
    fold, steps = read(log)
    assert fold.outcome, "a lone taker always brings it to an end"
    claims = [place for place, step in enumerate(steps) if step is RecordEffect.CLAIMED]
    for begin, end in zip(claims, [*claims, len(log)][1:], strict=True):
        seen = [
            log[place].owner
            for place in range(begin, end)
            if steps[place] in (RecordEffect.APPENDED, RecordEffect.ENDED)
        ]
        assert set(seen) <= {log[begin].owner, "gateway"}, (
            "a zombie is not there after a claim that counted"
        )


def interleaved(scripts: dict[str, list[str]]) -> Iterator[list[tuple[str, str]]]:
    """Every order in which the actors can make their moves."""
    if not any(scripts.values()):
        yield []
    for name, script in scripts.items():
        if script:
            for rest in interleaved({**scripts, name: script[1:]}):
                yield [(name, script[0]), *rest]


TAKE = ["look", "claim", "check", "write", "finish"]


@pytest.mark.parametrize(
    "scripts",
    [
        {"a": ["run", "write", "write", "finish"], "b": TAKE, "g": ["cancel"]},
        {"a": ["run", "write", "finish"], "b": TAKE, "c": ["look", "claim", "check"]},
        {"a": ["run", "write"], "b": ["run", "write", "finish"], "g": ["cancel", "cancel"]},
        {"a": [*TAKE, "write"], "b": ["run", "write", "fail"], "g": ["cancel"]},
    ],
)
def test_every_interleaving_of_two_workers_claims_and_cancels_ends_once(scripts):
    for moves in interleaved(scripts):
        check_played(played(moves))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["run", "look", "claim", "check", "write", "write", "finish", "fail"]),
        )
        | st.just(("g", "cancel")),
        max_size=40,
    )
)
def test_any_play_of_three_workers_and_a_gateway_ends_once(moves):
    check_played(played(moves))


def test_a_zombie_writes_into_the_void():
    log = [
        Written(DATA, "a", 0),
        Written(CLAIM, "b", supersedes="a"),
        Written(DATA, "a", 1),
        Written(DATA, "b", 1),
    ]
    log += [Written(FINAL, "a", 2, FAILED), Written(FINAL, "b", 2, COMPLETED)]
    fold, steps = read(log)
    assert steps == [
        RecordEffect.APPENDED,
        RecordEffect.CLAIMED,
        RecordEffect.IGNORED,
        RecordEffect.APPENDED,
        RecordEffect.IGNORED,
        RecordEffect.ENDED,
    ]
    assert (fold.outcome, fold.attempts) == (COMPLETED, 2)


def test_of_two_claims_on_one_writer_the_first_counts():
    log = [
        Written(DATA, "a", 0),
        Written(CLAIM, "b", supersedes="a"),
        Written(CLAIM, "c", supersedes="a"),
    ]
    fold, steps = read(log)
    assert steps == [RecordEffect.APPENDED, RecordEffect.CLAIMED, RecordEffect.IGNORED]
    assert fold.writer == "b"


def test_a_claim_on_nobody_counts_only_before_anybody_wrote():
    assert read([Written(CLAIM, "b"), Written(DATA, "a", 0)])[1] == [
        RecordEffect.CLAIMED,
        RecordEffect.IGNORED,
    ]
    assert read([Written(DATA, "a", 0), Written(CLAIM, "b")])[1] == [
        RecordEffect.APPENDED,
        RecordEffect.IGNORED,
    ]


def test_a_claim_after_the_end_does_not_count():
    log = [Written(FINAL, "a", 0, COMPLETED), Written(CLAIM, "b", supersedes="a")]
    assert read(log)[1] == [RecordEffect.ENDED, RecordEffect.IGNORED]


def test_a_gateway_may_cancel_and_expire_and_nothing_else():
    for outcome in OUTCOMES:
        ends = outcome in {CANCELLED, EXPIRED}
        assert read([Written(FINAL, "g", 0, outcome, by_gateway=True)])[1] == [
            RecordEffect.ENDED if ends else RecordEffect.IGNORED
        ]
    assert read([Written(DATA, "g", 0, by_gateway=True)])[1] == [RecordEffect.IGNORED]
