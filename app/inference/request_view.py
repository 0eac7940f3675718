"""A request as a resource: found by its id alone, from any gateway, with nothing but the log."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from app.bus.base import Bus, Record
from app.bus.end_offsets import Ends
from app.cluster.model_registry import ModelRegistry, ModelState
from app.errors import BusError, BusUnavailable, RateLimited, RequestNotFound, UndecodableRecord
from app.inference.pending_request import PendingRequest
from app.openai_api.endpoints import find_last_error
from app.openai_api.sse import count_events
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, EXPIRED, FAILED
from app.protocol.reply_view import ReplyView
from app.protocol.request_id import Address, fingerprint_topic
from app.reply_log.record_scanner import RecordScanner
from app.reply_log.reply_lookup import ReplyLookup

MOST_WAITING = 1000  # look-ups of a tenant in one gateway
_OVERDUE_SECONDS = 5.0  # past its deadline: gateways and workers have had their leeway

QUEUED, RUNNING = "queued", "running"


@dataclass(slots=True)
class RequestView:
    """One request, and its reply as far as the log has it."""

    address: Address
    request: RequestRecord
    known: ModelState
    seen: ReplyView

    @property
    def final(self) -> ReplyRecord | None:
        return self.seen.parts[-1] if self.seen.state.outcome else None

    @property
    def status(self) -> str:
        if self.seen.state.outcome:
            return self.seen.state.outcome
        return RUNNING if self.seen.state.writer or self._worker() else QUEUED

    @property
    def head_status(self) -> int:
        """The HTTP status that the client got; 0 while there is none."""
        return next((part.status for part in self.seen.parts if part.status), 0)

    @property
    def head(self) -> tuple[tuple[str, str], ...]:
        """The HTTP headers of the reply's last writer; none while there is no reply."""
        return next((part.head for part in reversed(self.seen.parts) if part.status), ())

    @property
    def overdue(self) -> bool:
        """Its deadline has long passed and nobody has said so."""
        return (
            not self.seen.state.outcome
            and time.time() > self.request.deadline / 1000 + _OVERDUE_SECONDS
        )

    def call(self) -> PendingRequest:
        """To read its reply with, from the beginning."""
        return PendingRequest(
            self.request, self.known.card.topic, self.known.card.model, self.address
        )

    def _estimated_usage(self) -> dict[str, Any] | None:
        """What a stream cost that was cut off before its upstream could say: its events, one a
        token.
        """
        if self.seen.state.outcome not in (CANCELLED, EXPIRED, FAILED):
            return None
        shown = sum(count_events(part.value) for part in self.seen.parts if not part.outcome)
        return {"completion_tokens": shown, "estimated": True} if shown else None

    def _worker(self) -> str:
        """The worker that has it: its writer in the log, else the one whose heartbeat lists it."""
        return self.seen.state.writer or self.known.worker_of(self.address.id)

    def described(self) -> dict[str, Any]:
        status, final = self.status, self.final
        waiting = status == QUEUED
        notes = dict(final.notes) if final else {}
        position = self.known.position(self.address.partition, self.address.offset)
        return {
            "id": self.address.encode(),
            "object": "request",
            "status": status,
            "model": self.request.model,
            "created_at": self.request.created // 1000,
            "queue_position": position if waiting else None,
            "estimated_wait_seconds": self.known.estimated_wait(position) if waiting else None,
            "attempts": max(self.seen.state.attempts, 0 if waiting else 1),
            "worker": self._worker() or notes.get("worker") or None,
            "timings": {
                name.replace("-", "_"): float(notes[name])
                for name in ("queue-ms", "upstream-ms")
                if name in notes
            },
            "usage": final.usage if final and final.usage else self._estimated_usage(),
            "error": error_of(final),
        }


def error_of(final: ReplyRecord | None) -> dict[str, Any] | None:
    """OpenAI's error object in a final record's value, whether it is a body or a stream's last
    event.
    """
    if final is None or final.outcome == "completed":
        return None
    value = final.value if final.status else (find_last_error(final.value) or final.value)
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    return (
        error
        if isinstance(error, dict)
        else {"message": "", "type": "server_error", "param": None, "code": final.code or None}
    )


class RequestViews:
    """Finds requests and their replies. One pass over a partition serves all that are asked for at
    once.
    """

    def __init__(
        self, bus: Bus, scanner: RecordScanner, lookup: ReplyLookup, catalog: ModelRegistry
    ) -> None:
        self._bus = bus
        self._ends = Ends(bus)
        self._waiting: Counter[str] = Counter()  # look-ups by tenant
        self._scanner = scanner
        self._lookup = lookup
        self._catalog = catalog

    def model_of(self, public_id: str) -> str | None:
        """Return the id of the model whose topic a public id names; None if there is none."""
        address = Address.decode(public_id)
        known = self._model_of(address) if address else None
        return known.card.model if known else None

    async def find(self, public_id: str, tenant: str) -> RequestView:
        """Find a request of the tenant.

        Raises RequestNotFound: not an id of ours, nothing there, another tenant's; RateLimited
        where too many look-ups of the tenant wait; BusUnavailable.
        """
        if self._waiting[tenant] >= MOST_WAITING:
            raise RateLimited(
                f"{MOST_WAITING} look-ups of your requests already wait here", retry_after_seconds=1
            )
        self._waiting[tenant] += 1
        try:
            return await self._find(public_id, tenant)
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    async def _find(self, public_id: str, tenant: str) -> RequestView:
        address = Address.decode(public_id)
        known = self._model_of(address) if address else None
        if address is None or known is None or (known.ends and address.partition not in known.ends):
            raise _not_found()
        # it would be told in the end, after longer than anybody should wait
        if trouble := self._bus.healthy():
            raise BusUnavailable(f"the log cannot be read: {trouble}", retry_after_seconds=1)
        try:
            if await self._is_beyond_end(address, known):
                raise _not_found()
            request = await self._request(address, known, tenant)
            if request is None or request.tenant != tenant:
                raise _not_found()
            return RequestView(address, request, known, await self._lookup.look(request))
        except BusError as error:
            raise BusUnavailable(
                f"the log cannot be read: {error}", retry_after_seconds=1
            ) from None

    def _model_of(self, address: Address) -> ModelState | None:
        return next(
            (
                known
                for known in self._catalog.all()
                if fingerprint_topic(known.card.topic) == address.topic
            ),
            None,
        )

    async def _is_beyond_end(self, address: Address, known: ModelState) -> bool:
        """Return whether nothing can lie there. Behind the last measured end the bus is asked."""
        if address.offset < known.ends.get(address.partition, 0):
            return False
        ends = await self._ends.of(known.card.topic)
        return address.offset >= ends.get(address.partition, 0)

    async def _request(
        self, address: Address, known: ModelState, tenant: str
    ) -> RequestRecord | None:
        found: list[Record] = []
        where = known.card.topic, address.partition, address.id, address.offset
        await self._scanner.look(*where, found.append, until=address.offset + 1, owner=tenant)
        if not found or found[0].offset != address.offset:
            return None
        try:
            request = RequestRecord.decode(found[0].headers, found[0].value)
        except UndecodableRecord:
            return None
        fits = (request.reply_partition, request.reply_offset) == (
            address.reply_partition,
            address.reply_offset,
        )
        return request if fits else None


def _not_found() -> RequestNotFound:
    return RequestNotFound("there is no such request, or it is no longer kept", param="id")
