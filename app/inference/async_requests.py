"""Requests that were answered 202 at once (Prefer: respond-async): no client waits for them.

A hundred thousand may wait, so of each only what its access line needs is kept: no body, no
headers, no part of its reply.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias

from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import RecordEffect, ReplyState

logger = logging.getLogger("app.inference.async_requests")

LEEWAY_SECONDS = 5.0  # past a deadline: workers have had theirs, and what they wrote has been read


class Owing(Protocol):
    """What a request has taken of its caller's limits, beyond what it may have used."""

    def read(self, part: ReplyRecord) -> None: ...

    async def settle(self, line: dict[str, object], status: int) -> None: ...


@dataclass(slots=True, eq=False)
class AsyncRequest:
    """One of them. Fed by the reply log, as a call is."""

    fold: ReplyState
    public_id: str
    path: str
    named: str  # the model, as the client called it
    model: str  # its id
    tenant: str
    stream: bool
    began: float  # by time.monotonic
    client_id: str
    grant: Owing | None  # what its tokens are corrected by
    waits: bool = True  # for a worker
    status: int = 0  # that a client which waited would have got
    due: set[bytes] = field(default_factory=set)  # those whose deadline is in the same second

    def feed(self, reply: ReplyRecord) -> RecordEffect:
        """Takes the next record of this id from the log."""
        step = self.fold.apply_record(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if step in (RecordEffect.APPENDED, RecordEffect.ENDED):
            self.saw(reply)
        return step

    def saw(self, part: ReplyRecord) -> None:
        """A record that counts. A stream's first one decides the status, a whole reply's last."""
        if part.status and not (self.stream and self.status):
            self.status = part.status
        if self.grant is not None:
            self.grant.read(part)


Ended: TypeAlias = Callable[[AsyncRequest, ReplyRecord | None], None]


class AsyncRequests:
    """Those that one gateway took, by internal id, until their end, or until it is sure that none
    will come.

    `begun` is told of each model and tenant whose request waits for a worker no more.
    """

    def __init__(self, begun: Callable[[str, str], None]) -> None:
        self._begun = begun
        self._all: dict[bytes, AsyncRequest] = {}
        # by second: a timer for each request is as large as what is kept of it
        self._due: dict[int, set[bytes]] = {}
        # is told of each end; AsyncAccounting's, once there is one
        self.ended: Ended = lambda request, final: None

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._all

    def newest(self, count: int) -> list[tuple[str, AsyncRequest]]:
        """With their internal ids, the newest first."""
        return [(id_.decode(), self._all[id_]) for id_ in islice(reversed(self._all), count)]

    def take(self, call: PendingRequest, one: AsyncRequest) -> None:
        """Goes on where the call was left, at which its end may have come already."""
        parts = call.parts()
        for part in parts:
            one.saw(part)
        if call.fold.outcome:
            self._end(one, parts[-1])
            return
        id_ = call.id.encode()
        self._all[id_] = one
        one.due = self._due_at(math.ceil(call.request.deadline / 1000))
        one.due.add(id_)

    def _due_at(self, second: int) -> set[bytes]:
        if second not in self._due:
            self._due[second] = set()
            asyncio.get_running_loop().call_later(
                max(0.0, second - time.time()), self._past_deadline, second
            )
        return self._due[second]

    def feed(self, id_: bytes, reply: ReplyRecord) -> None:
        one = self._all.get(id_)
        if one is None:  # ended within the same record
            return
        step = one.feed(reply)
        if one.fold.attempts:
            self._waits_no_more(one)
        if step is RecordEffect.ENDED:
            del self._all[id_]
            one.due.discard(id_)
            self._end(one, reply)

    def _waits_no_more(self, one: AsyncRequest) -> None:
        if one.waits:
            one.waits = False
            self._begun(one.model, one.tenant)

    def _past_deadline(self, second: int) -> None:
        for id_ in self._due[second]:
            self._waits_no_more(self._all[id_])
        asyncio.get_running_loop().call_later(LEEWAY_SECONDS, self._overdue, second)

    def _overdue(self, second: int) -> None:
        for id_ in self._due.pop(second):
            self._end(self._all.pop(id_), None)

    def _end(self, one: AsyncRequest, final: ReplyRecord | None) -> None:
        self._waits_no_more(one)
        self.ended(one, final)

    def close(self) -> None:
        """Warn of the requests that go on: nobody will count them."""
        if self._all:
            logger.warning(
                "%d requests that were accepted (Prefer: respond-async) go on uncounted",
                len(self._all),
            )


class Either:
    """Ids that are in one of two: `ChainMap` costs five times as much."""

    __slots__ = ("_others", "_some")

    def __init__(self, some: dict[bytes, PendingRequest], others: AsyncRequests) -> None:
        self._some, self._others = some, others

    def __contains__(self, id_: object) -> bool:
        return id_ in self._some or id_ in self._others
