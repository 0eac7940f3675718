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

# past a deadline: workers have had theirs, and what they wrote has been read
DEADLINE_LEEWAY_SECONDS = 5.0


class UnsettledReservation(Protocol):
    """What a request has taken of its caller's limits, beyond what it may have used."""

    def count_part(self, part: ReplyRecord) -> None: ...

    async def settle(self, line: dict[str, object], status: int) -> None: ...


@dataclass(slots=True, eq=False)
class AsyncRequest:
    """One of them. Fed by the reply log, as a call is."""

    reply_state: ReplyState
    public_id: str
    path: str
    requested_model: str  # the model, as the client called it
    model_id: str  # its id
    tenant: str
    stream: bool
    started_at: float  # by time.monotonic
    client_id: str
    reservation: UnsettledReservation | None  # what its tokens are corrected by
    is_waiting: bool = True  # for a worker
    status: int = 0  # that a client which waited would have got
    # those whose deadline is in the same second
    deadline_group: set[bytes] = field(default_factory=set)

    def apply_record(self, reply: ReplyRecord) -> RecordEffect:
        """Takes the next record of this id from the log."""
        effect = self.reply_state.apply_record(
            reply.kind,
            reply.owner,
            reply.seq,
            outcome=reply.outcome,
            supersedes=reply.supersedes,
            by_gateway=reply.by_gateway,
        )
        if effect in (RecordEffect.APPENDED, RecordEffect.ENDED):
            self.add_part(reply)
        return effect

    def add_part(self, part: ReplyRecord) -> None:
        """A record that counts. A stream's first one decides the status, a whole reply's last."""
        if part.status and not (self.stream and self.status):
            self.status = part.status
        if self.reservation is not None:
            self.reservation.count_part(part)


OnEnded: TypeAlias = Callable[[AsyncRequest, ReplyRecord | None], None]


class AsyncRequests:
    """Those that one gateway took, by internal id, until their end, or until it is sure that none
    will come.

    `on_started` is told of each model and tenant whose request waits for a worker no more.
    """

    def __init__(self, on_started: Callable[[str, str], None]) -> None:
        self._on_started = on_started
        self._requests: dict[bytes, AsyncRequest] = {}
        # by second: a timer for each request is as large as what is kept of it
        self._ids_by_deadline_second: dict[int, set[bytes]] = {}
        # is told of each end; AsyncAccounting's, once there is one
        self.on_ended: OnEnded = lambda request, final: None

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._requests

    def list_newest(self, count: int) -> list[tuple[str, AsyncRequest]]:
        """With their internal ids, the newest first."""
        return [
            (id_.decode(), self._requests[id_]) for id_ in islice(reversed(self._requests), count)
        ]

    def add_request(self, pending: PendingRequest, async_request: AsyncRequest) -> None:
        """Goes on where the call was left, at which its end may have come already."""
        parts = pending.get_unread_parts()
        for part in parts:
            async_request.add_part(part)
        if pending.reply_state.outcome:
            self._end_request(async_request, parts[-1])
            return
        id_ = pending.id.encode()
        self._requests[id_] = async_request
        async_request.deadline_group = self._get_deadline_group(
            math.ceil(pending.request.deadline / 1000)
        )
        async_request.deadline_group.add(id_)

    def _get_deadline_group(self, unix_second: int) -> set[bytes]:
        if unix_second not in self._ids_by_deadline_second:
            self._ids_by_deadline_second[unix_second] = set()
            asyncio.get_running_loop().call_later(
                max(0.0, unix_second - time.time()), self._on_deadline, unix_second
            )
        return self._ids_by_deadline_second[unix_second]

    def apply_record(self, id_: bytes, reply: ReplyRecord) -> None:
        async_request = self._requests.get(id_)
        if async_request is None:  # ended within the same record
            return
        effect = async_request.apply_record(reply)
        if async_request.reply_state.attempts:
            self._mark_started(async_request)
        if effect is RecordEffect.ENDED:
            del self._requests[id_]
            async_request.deadline_group.discard(id_)
            self._end_request(async_request, reply)

    def _mark_started(self, async_request: AsyncRequest) -> None:
        if async_request.is_waiting:
            async_request.is_waiting = False
            self._on_started(async_request.model_id, async_request.tenant)

    def _on_deadline(self, unix_second: int) -> None:
        for id_ in self._ids_by_deadline_second[unix_second]:
            self._mark_started(self._requests[id_])
        asyncio.get_running_loop().call_later(
            DEADLINE_LEEWAY_SECONDS, self._end_overdue, unix_second
        )

    def _end_overdue(self, unix_second: int) -> None:
        for id_ in self._ids_by_deadline_second.pop(unix_second):
            self._end_request(self._requests.pop(id_), None)

    def _end_request(self, async_request: AsyncRequest, final: ReplyRecord | None) -> None:
        self._mark_started(async_request)
        self.on_ended(async_request, final)

    def close(self) -> None:
        """Warn of the requests that go on: nobody will count them."""
        if self._requests:
            logger.warning(
                "%d requests that were accepted (Prefer: respond-async) go on uncounted",
                len(self._requests),
            )


class WantedIds:
    """Ids that are in one of two: `ChainMap` costs five times as much."""

    __slots__ = ("_async_requests", "_pending_requests")

    def __init__(
        self, pending_requests: dict[bytes, PendingRequest], async_requests: AsyncRequests
    ) -> None:
        self._pending_requests, self._async_requests = pending_requests, async_requests

    def __contains__(self, id_: object) -> bool:
        return id_ in self._pending_requests or id_ in self._async_requests
