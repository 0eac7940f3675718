"""The life of a request, whatever its workers and gateways do, in whatever order the log takes it.

Two workers claim at once, one is stopped and goes on later, one dies, hands back or loses its
upstream, a gateway cancels or expires: there is one outcome, every reader agrees, and no token is
there twice or missing.
"""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.gateway.http.reply_body import assemble_body
from app.openai_api.sse import DONE_EVENT, count_events
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import CLAIM, COMPLETED, FAILED, RecordEffect
from app.protocol.reply_view import ReplyView
from tests.numbered import tokens
from tests.unit.life import GATEWAY_ENDS, KINDS, WHOLE, Kind, Log, Worker
from tests.unit.scene import chunks, text_of

WHICH = st.integers(0, 2)


def writes(worker: Worker) -> bool:
    return worker.writing is not None


def sends(worker: Worker) -> bool:
    return bool(worker.outbox)


class Life(RuleBasedStateMachine):
    kind: Kind

    @initialize(written=st.integers(0, 4))
    def begin(self, written: int) -> None:
        """The request is certainly new to the first worker that takes it."""
        self.log = Log(self.kind, self.kind.request())
        self.workers = [Worker(name, self.log) for name in "abc"]
        self.reader = ReplyView()  # reads the log as it grows
        self.steps: list[RecordEffect] = []
        self.attempts = 0
        self.ended: tuple[str, int] | None = None
        self.workers[0].take()
        for _ in range(written):
            self.workers[0].write(1)
            self.workers[0].deliver_all()

    def some(self, having: Callable[[Worker], bool]) -> list[Worker]:
        return (
            [worker for worker in self.workers if having(worker)]
            if hasattr(self, "workers")
            else []
        )

    # What can happen.

    @rule(which=WHICH, count=st.integers(1, 4), further=st.booleans())
    def one_goes_on(self, which: int, count: int, further: bool) -> None:
        """The next thing it does: it looks, claims, sees whether the claim counted, writes."""
        self.workers[which].go_on(count, further)

    @rule(which=WHICH, steps=st.integers(1, 6), further=st.booleans())
    def one_goes_on_and_the_log_keeps_up(self, which: int, steps: int, further: bool) -> None:
        for _ in range(steps):
            self.workers[which].go_on(2, further)
            self.workers[which].deliver_all()

    @precondition(lambda self: self.some(sends))
    @rule(which=WHICH, twice=st.booleans())
    def the_log_takes_a_record(self, which: int, twice: bool) -> None:
        found = self.some(sends)
        found[which % len(found)].deliver(twice)

    @precondition(lambda self: self.some(writes))
    @rule(which=WHICH)
    def an_upstream_breaks_off(self, which: int) -> None:
        found = self.some(writes)
        found[which % len(found)].break_off()

    @precondition(lambda self: self.some(writes))
    @rule(which=WHICH, how=st.sampled_from(["die", "stop", "hand_back", "expire"]))
    def one_that_writes_comes_to_an_end(self, which: int, how: str) -> None:
        found = self.some(writes)
        getattr(found[which % len(found)], how)()

    @precondition(lambda self: not self.reader.state.outcome)
    @rule(outcome=st.sampled_from(GATEWAY_ENDS), chance=st.integers(1, 10))
    def a_gateway_ends_it(self, outcome: str, chance: int) -> None:
        if chance == 7:  # else most lives would be short
            self.log.end_by_gateway(outcome)

    # What holds, always.

    @invariant()
    def what_holds_whenever_the_log_grows(self) -> None:
        if len(self.log.records) > len(self.steps):
            self.the_reader_reads_on()
            self.there_is_one_outcome_and_nothing_behind_it()
            self.only_the_writers_records_count()
            self.attempts_never_decrease()
            self.records_and_events_are_numbered_without_gaps()
            self.what_a_client_sees_is_one_text()

    def the_reader_reads_on(self) -> None:
        for reply in self.log.records[len(self.steps) :]:
            self.steps.append(self.reader.apply_record(reply))

    def there_is_one_outcome_and_nothing_behind_it(self) -> None:
        outcome = self.reader.state.outcome
        assert self.steps.count(RecordEffect.ENDED) == bool(outcome)
        if outcome and self.ended is None:
            self.ended = outcome, len(self.reader.parts)
            assert self.reader.parts[-1].outcome == outcome, "the first final record that counts"
        assert self.ended is None or self.ended == (outcome, len(self.reader.parts))

    def only_the_writers_records_count(self) -> None:
        writer = ""
        for reply, step in zip(self.log.records, self.steps, strict=True):
            if step is RecordEffect.CLAIMED:
                assert (reply.kind, reply.supersedes) == (CLAIM, writer)
                writer = reply.owner
            elif step is not RecordEffect.IGNORED and not reply.by_gateway:
                assert reply.owner == (writer or reply.owner)
                writer = reply.owner
        assert writer == self.reader.state.writer

    def attempts_never_decrease(self) -> None:
        assert self.attempts <= self.reader.state.attempts
        self.attempts = self.reader.state.attempts

    def records_and_events_are_numbered_without_gaps(self) -> None:
        number = 1
        written = [part for part in self.reader.parts if not part.by_gateway]
        assert [part.seq for part in written] == list(range(len(written)))
        for part in written if self.kind.stream else ():
            assert part.event == number
            number += count_events(part.value)

    def what_a_client_sees_is_one_text(self) -> None:
        if self.kind.stream:
            self._check_stream([part for part in self.reader.parts if not part.by_gateway])
        elif self.reader.state.outcome == COMPLETED:
            assert assemble_body(self.reader.parts, stream=False).value == WHOLE

    def _check_stream(self, written: list[ReplyRecord]) -> None:
        if written and written[0].status >= 400:
            assert len(written) == 1, "an error before the first token is all there is"
            return
        block = b"".join(part.value for part in written)
        events = [chunk for chunk in chunks(block) if "error" not in chunk]
        choices = [choice for event in events for choice in event["choices"]]
        text = "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices
        )
        assert self.kind.text.startswith(text), "no token twice, none missing"
        assert len({(event["id"], event["created"]) for event in events}) <= 1, "one id"
        assert block.count(b'"role"') <= 1
        if self.reader.state.outcome == COMPLETED:
            assert text == self.kind.text
            assert block.endswith(DONE_EVENT)
            assert block.count(DONE_EVENT) == 1
            assert block.count(b'"finish_reason":"') == 1
            assert [
                event["usage"]["completion_tokens"] for event in events if event.get("usage")
            ] in ([], [len(text.split())])
        if self.reader.state.outcome == FAILED:
            assert not self.kind.continues, "what can be continued is"
            assert text, "what nobody has seen is begun anew"

    def teardown(self) -> None:
        """One that lives takes over: it ends. What the others still send changes nothing."""
        if not hasattr(self, "log"):
            return
        last = Worker("last", self.log)
        for _ in range(99):
            last.go_on(2, further=True)
            last.deliver_all()
        ended = self.log.seen()
        assert ended.state.outcome
        for worker in self.workers:
            worker.deliver_all()
            worker.write(9)
            worker.deliver_all()
        self.what_holds_whenever_the_log_grows()
        assert self.reader.parts == ended.parts
        assert self.log.seen() == self.reader, "whoever began early and whoever came late"


@pytest.mark.parametrize("name", KINDS)
def test_the_life_of_a_request(name: str) -> None:
    machine = type("Life", (Life,), {"kind": KINDS[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=80, stateful_step_count=30))


def test_what_was_handed_back_is_nobodys_until_it_is_claimed() -> None:
    """A zombie's late record fits in its number, and not in its text."""
    log = Log(KINDS["a chat"], KINDS["a chat"].request())
    zombie, other, last = (Worker(name, log) for name in ("zombie", "other", "last"))
    zombie.take()
    zombie.write(2)
    zombie.deliver_all()
    for count in (3, 1):
        zombie.write(count)
    for _ in range(4):
        other.go_on(2, further=False)
        other.deliver_all()
    other.hand_back()
    other.deliver_all()
    zombie.deliver_all()
    seen = log.seen()
    assert (text_of(seen.text), seen.state.writer, seen.state.attempts) == (tokens(2), "", 2)
    for _ in range(99):
        last.go_on(2, further=False)
        last.deliver_all()
    assert text_of(log.seen().text) == log.kind.text
