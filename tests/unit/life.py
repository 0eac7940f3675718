"""The actors in the life of one request, driven by the pure part of the code: each reads and writes
one log of reply records.

What a worker has sent lies in its outbox until the log takes it, so that any of them can be slow,
stopped, or dead.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.agent.reply.continuation import Joiner
from app.agent.reply.plan import Run, plan
from app.errors import GatewayError
from app.openai_api.bodies import CHAT, COMPLETIONS
from app.openai_api.sse import count_events, split_events
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, CLAIM, COMPLETED, DATA, EXPIRED, FAILED, FINAL
from app.protocol.reply_view import ReplyView
from tests.numbered import Generation, tokens
from tests.unit.scene import body, request

TOKENS = 6
EVENTS = (("content-type", "text/event-stream"),)
WHOLE = b'{"the":"whole","reply":"of a request that is not streamed"}'


@dataclass(frozen=True)
class Kind:
    """A request, and whether its upstream can go on from a text."""

    path: str = CHAT
    stream: bool = True
    continues: bool = True
    members: tuple[tuple[str, Any], ...] = ()

    def request(self) -> RequestRecord:
        members = dict(self.members)
        return request(
            path=self.path,
            stream=self.stream,
            body=body(path=self.path, stream=self.stream, **members),
        )

    @property
    def text(self) -> str:
        return tokens(TOKENS)


KINDS = {
    "a chat": Kind(),
    "a chat with a limit": Kind(
        members=(("max_tokens", TOKENS), ("stream_options", {"include_usage": True}))
    ),
    "a text completion": Kind(path=COMPLETIONS, members=(("max_tokens", TOKENS),)),
    "a chat that cannot be continued": Kind(continues=False),
    "a whole reply": Kind(stream=False),
}


def generated(path: str, asked: dict[str, Any], run: int) -> list[bytes]:
    """The events of the `run`-th time that the upstream is asked: all TOKENS, from behind the last
    one that it is given.
    """
    made = Generation.of(str(run), path, asked, TOKENS)
    if not asked.get("max_tokens"):
        made = replace(made, count=TOKENS - made.first)
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    pieces = [
        made.opening(),
        *(made.token(number) for number in range(made.count)),
        *split_events(made.closing(usage)),
    ]
    return [piece for piece in pieces if piece]


@dataclass
class Log:
    """The reply log of one request. `runs`: how often the upstream was asked."""

    kind: Kind
    request: RequestRecord
    records: list[ReplyRecord] = field(default_factory=list)
    runs: int = 0

    def seen(self, end: int | None = None) -> ReplyView:
        found = ReplyView()
        for reply in self.records[:end]:
            found.apply_record(reply)
        return found

    def end_by_gateway(self, outcome: str) -> None:
        final = ReplyRecord(
            self.request.id,
            "gateway",
            FINAL,
            value=b'{"error":{}}',
            status=504,
            outcome=outcome,
            code=outcome,
            by_gateway=True,
        )
        self.records.append(final)


@dataclass
class Writing:
    """What a worker has still to write of its reply, and where it is."""

    events: deque[bytes]
    seq: int
    event: int
    joiner: Joiner | None
    begun: bool  # the client has seen something
    outcome: str = COMPLETED
    status: int = 200


@dataclass
class Worker:
    name: str
    log: Log
    outbox: deque[ReplyRecord] = field(default_factory=deque)
    writing: Writing | None = None
    looked: ReplyView | None = None
    claimed: bool = False
    claim_place: int = -1

    def take(self) -> None:
        """The request is certainly new to everybody."""
        self._begin(ReplyView())

    def look(self) -> None:
        """It may be another's."""
        if self.writing is None and not self.claimed:
            seen = self.log.seen()
            self.looked = None if seen.state.outcome else seen

    def claim(self) -> None:
        if self.looked is not None:
            self.outbox.append(
                ReplyRecord(
                    self.log.request.id, self.name, CLAIM, supersedes=self.looked.state.writer
                )
            )
            self.looked, self.claimed, self.claim_place = None, True, -1

    def check(self, further: bool) -> None:
        """Whether its claim counted: by the log up to it, or `further`."""
        if self.claimed and self.claim_place >= 0:
            self.claimed = False
            seen = self.log.seen(None if further else self.claim_place + 1)
            if not seen.state.outcome and seen.state.writer == self.name:
                self._begin(seen)

    def write(self, count: int) -> None:
        """Sends the next events, so many in one record; the last of all is the end."""
        at = self.writing
        if at is None:
            return
        taken = [at.events.popleft() for _ in range(min(count, len(at.events)))]
        value = b"".join(taken) if at.joiner is None else at.joiner.join(b"".join(taken))
        last = not at.events
        if not value and not last:  # a role that was sent before
            return
        kind, outcome = (FINAL, at.outcome) if last else (DATA, "")
        status = 0 if at.begun else at.status
        reply = ReplyRecord(
            self.log.request.id, self.name, kind, at.seq, value, at.event, status, EVENTS, outcome
        )
        self.outbox.append(reply)
        at.seq, at.event, at.begun = at.seq + 1, at.event + count_events(value), True
        if last:
            self.writing = None

    def go_on(self, count: int, further: bool) -> None:
        """The next thing it does; it writes so many events at a time."""
        if self.writing is not None:
            self.write(count)
        elif self.looked is not None:
            self.claim()
        elif self.claimed:
            self.check(further)
        else:
            self.look()

    def deliver(self, twice: bool = False) -> None:
        """The log takes the oldest record that it has sent; twice, if the acknowledgement of the
        first was lost.
        """
        if self.outbox:
            self.log.records += [self.outbox.popleft()] * (1 + twice)
            if self.log.records[-1].kind == CLAIM and self.log.records[-1].owner:
                self.claim_place = len(self.log.records) - 1

    def deliver_all(self) -> None:
        while self.outbox:
            self.deliver()

    def break_off(self) -> None:
        """Its upstream has reset: what it wrote settles, then it goes on by itself from what the
        log has.
        """
        if self.writing is not None and self.writing.outcome == COMPLETED:
            self.deliver_all()
            self._begin(self.log.seen())

    def stop(self) -> None:
        """By a cancel, or because it was superseded: nothing more is sent, what is under way may
        still come.
        """
        self.writing = None

    def expire(self) -> None:
        at = self.writing
        if at is not None:
            at.events, at.outcome, at.joiner, at.status = (
                deque([self._error(b'{"error":{}}')]),
                EXPIRED,
                None,
                504,
            )

    def hand_back(self) -> None:
        """It leaves: what is under way comes before that, or never."""
        if self.writing is not None:
            self.writing = None
            self.outbox.append(ReplyRecord(self.log.request.id, "", CLAIM, supersedes=self.name))

    def die(self) -> None:
        """What the log has not taken is lost."""
        self.outbox.clear()
        self.writing, self.looked, self.claimed = None, None, False

    def _begin(self, seen: ReplyView) -> None:
        log = self.log
        planned = plan(log.request, seen, log.kind.continues)
        at = Writing(
            deque(),
            seen.state.next_seq,
            1 + count_events(seen.text),
            None,
            bool(seen.parts) and log.request.stream,
        )
        self.writing = at
        if isinstance(planned, GatewayError):
            at.outcome, at.status = FAILED, planned.status
            at.events.append(self._error(planned.encode_body()))
        elif not isinstance(planned, Run):
            at.events.append(planned.events)
        elif log.request.stream:
            log.runs += 1
            at.joiner = planned.joiner
            at.events.extend(generated(log.kind.path, orjson.loads(planned.body), log.runs))
        else:
            log.runs += 1
            at.events.extend(WHOLE[start : start + 10] for start in range(0, len(WHOLE), 10))

    def _error(self, error: bytes) -> bytes:
        at = self.writing
        return b"data: " + error + b"\n\n" if at is not None and at.begun else error


GATEWAY_ENDS = (CANCELLED, EXPIRED)
