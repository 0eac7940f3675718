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

MAX_TENANT_LOOKUPS = 1000  # look-ups of a tenant in one gateway
_OVERDUE_SECONDS = 5.0  # past its deadline: gateways and workers have had their leeway

QUEUED, RUNNING = "queued", "running"


@dataclass(slots=True)
class RequestView:
    """One request, and its reply as far as the log has it."""

    address: Address
    request: RequestRecord
    model_state: ModelState
    reply_view: ReplyView

    @property
    def final(self) -> ReplyRecord | None:
        return self.reply_view.parts[-1] if self.reply_view.state.outcome else None

    @property
    def status(self) -> str:
        if self.reply_view.state.outcome:
            return self.reply_view.state.outcome
        return RUNNING if self.reply_view.state.writer or self._find_worker() else QUEUED

    @property
    def http_status(self) -> int:
        """The HTTP status that the client got; 0 while there is none."""
        return next((part.status for part in self.reply_view.parts if part.status), 0)

    @property
    def head(self) -> tuple[tuple[str, str], ...]:
        """The HTTP headers of the reply's last writer; none while there is no reply."""
        return next((part.head for part in reversed(self.reply_view.parts) if part.status), ())

    @property
    def is_overdue(self) -> bool:
        """Its deadline has long passed and nobody has said so."""
        return (
            not self.reply_view.state.outcome
            and time.time() > self.request.deadline / 1000 + _OVERDUE_SECONDS
        )

    def make_pending_request(self) -> PendingRequest:
        """To read its reply with, from the beginning."""
        return PendingRequest(
            self.request, self.model_state.card.topic, self.model_state.card.model, self.address
        )

    def _estimate_usage(self) -> dict[str, Any] | None:
        """What a stream cost that was cut off before its upstream could say: its events, one a
        token.
        """
        if self.reply_view.state.outcome not in (CANCELLED, EXPIRED, FAILED):
            return None
        event_count = sum(
            count_events(part.value) for part in self.reply_view.parts if not part.outcome
        )
        return {"completion_tokens": event_count, "estimated": True} if event_count else None

    def _find_worker(self) -> str:
        """The worker that has it: its writer in the log, else the one whose heartbeat lists it."""
        return self.reply_view.state.writer or self.model_state.worker_of(self.address.id)

    def describe(self) -> dict[str, Any]:
        status, final = self.status, self.final
        is_queued = status == QUEUED
        notes = dict(final.notes) if final else {}
        position = self.model_state.position(self.address.partition, self.address.offset)
        return {
            "id": self.address.encode(),
            "object": "request",
            "status": status,
            "model": self.request.model,
            "created_at": self.request.created // 1000,
            "queue_position": position if is_queued else None,
            "estimated_wait_seconds": self.model_state.estimated_wait(position)
            if is_queued
            else None,
            "attempts": max(self.reply_view.state.attempts, 0 if is_queued else 1),
            "worker": self._find_worker() or notes.get("worker") or None,
            "timings": {
                name.replace("-", "_"): float(notes[name])
                for name in ("queue-ms", "upstream-ms")
                if name in notes
            },
            "usage": final.usage if final and final.usage else self._estimate_usage(),
            "error": find_error(final),
        }


def find_error(final: ReplyRecord | None) -> dict[str, Any] | None:
    """OpenAI's error object in a final record's value, whether it is a body or a stream's last
    event.
    """
    if final is None or final.outcome == "completed":
        return None
    value = final.value if final.status else (find_last_error(final.value) or final.value)
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        document = None
    error = document.get("error") if isinstance(document, dict) else None
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
        self, bus: Bus, scanner: RecordScanner, lookup: ReplyLookup, model_registry: ModelRegistry
    ) -> None:
        self._bus = bus
        self._end_offsets = Ends(bus)
        self._lookups_by_tenant: Counter[str] = Counter()  # look-ups by tenant
        self._scanner = scanner
        self._lookup = lookup
        self._model_registry = model_registry

    def find_model_id(self, public_id: str) -> str | None:
        """Return the id of the model whose topic a public id names; None if there is none."""
        address = Address.decode(public_id)
        model_state = self._find_model(address) if address else None
        return model_state.card.model if model_state else None

    async def find_request(self, public_id: str, tenant: str) -> RequestView:
        """Find a request of the tenant.

        Raises RequestNotFound: not an id of ours, nothing there, another tenant's; RateLimited
        where too many look-ups of the tenant wait; BusUnavailable.
        """
        if self._lookups_by_tenant[tenant] >= MAX_TENANT_LOOKUPS:
            raise RateLimited(
                f"{MAX_TENANT_LOOKUPS} look-ups of your requests already wait here",
                retry_after_seconds=1,
            )
        self._lookups_by_tenant[tenant] += 1
        try:
            return await self._find_request(public_id, tenant)
        finally:
            self._lookups_by_tenant[tenant] -= 1
            if not self._lookups_by_tenant[tenant]:
                del self._lookups_by_tenant[tenant]

    async def _find_request(self, public_id: str, tenant: str) -> RequestView:
        address = Address.decode(public_id)
        model_state = self._find_model(address) if address else None
        if (
            address is None
            or model_state is None
            or (model_state.ends and address.partition not in model_state.ends)
        ):
            raise _not_found_error()
        # it would be told in the end, after longer than anybody should wait
        if unhealthy_reason := self._bus.healthy():
            raise BusUnavailable(
                f"the log cannot be read: {unhealthy_reason}", retry_after_seconds=1
            )
        try:
            if await self._is_beyond_end(address, model_state):
                raise _not_found_error()
            request = await self._read_request(address, model_state, tenant)
            if request is None or request.tenant != tenant:
                raise _not_found_error()
            return RequestView(address, request, model_state, await self._lookup.look(request))
        except BusError as error:
            raise BusUnavailable(
                f"the log cannot be read: {error}", retry_after_seconds=1
            ) from None

    def _find_model(self, address: Address) -> ModelState | None:
        return next(
            (
                model_state
                for model_state in self._model_registry.all()
                if fingerprint_topic(model_state.card.topic) == address.topic
            ),
            None,
        )

    async def _is_beyond_end(self, address: Address, model_state: ModelState) -> bool:
        """Return whether nothing can lie there. Behind the last measured end the bus is asked."""
        if address.offset < model_state.ends.get(address.partition, 0):
            return False
        end_offsets = await self._end_offsets.of(model_state.card.topic)
        return address.offset >= end_offsets.get(address.partition, 0)

    async def _read_request(
        self, address: Address, model_state: ModelState, tenant: str
    ) -> RequestRecord | None:
        records: list[Record] = []
        location = model_state.card.topic, address.partition, address.id, address.offset
        await self._scanner.look(*location, records.append, until=address.offset + 1, owner=tenant)
        if not records or records[0].offset != address.offset:
            return None
        try:
            request = RequestRecord.decode(records[0].headers, records[0].value)
        except UndecodableRecord:
            return None
        is_same_address = (request.reply_partition, request.reply_offset) == (
            address.reply_partition,
            address.reply_offset,
        )
        return request if is_same_address else None


def _not_found_error() -> RequestNotFound:
    return RequestNotFound("there is no such request, or it is no longer kept", param="id")
