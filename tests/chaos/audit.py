"""The reckoning: every request that lies in the log, and every one that a client was promised,
looked up as a resource.
"""

import asyncio
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.protocol.records import RequestRecord
from tests.acceptance.processes import until
from tests.acceptance.reading import DONE, Clients, Told, check_whole, check_whole_body
from tests.acceptance.services import Endpoint
from tests.chaos.deployment import DEADLINE
from tests.chaos.ledger import CUT, Promise, gaps, numbers_of, percentile, text_of

# What a client may be told of a fault: that it was refused, or that its gateway is gone.
ALLOWED = {
    CUT,
    "gateway_draining",
    "draining",
    "bus_unavailable",
    "gateway_unreachable",
    "queue_full",
}
_INTERRUPTED = 1.0  # seconds of silence in a stream whose tokens come twenty times a second
_AT_ONCE = 16  # look-ups
_AGAIN = 0.5  # seconds
_FINAL = ("completed", "failed", "cancelled", "expired")


@dataclass
class Found:
    """A request as every gateway describes it, and its reply."""

    status: str
    code: str
    count: int  # tokens it asked for
    told: Told


@dataclass
class Totals:
    accepted: int = 0
    logged: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    missing: int = 0
    takeovers: int = 0
    pauses: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # each broken promise in words

    @property
    def kept(self) -> bool:
        return not (self.faults or self.lost or self.doubled or self.missing)

    def __str__(self) -> str:
        errors = (
            ",".join(f"{kind}={count}" for kind, count in sorted(self.errors.items())) or "none"
        )
        outcomes = " ".join(
            f"{outcome}={self.outcomes[outcome]}"
            for outcome in ("completed", "cancelled", "failed", "expired")
        )
        recovery = (
            f"p50={percentile(self.pauses, 0.5):.2f}s p99={percentile(self.pauses, 0.99):.2f}s"
        )
        return (
            f"accepted={self.accepted} in_log={self.logged} {outcomes} errors: {errors} "
            f"lost={self.lost} doubled={self.doubled}"
            f" missing={self.missing} takeovers={self.takeovers} recovery {recovery} of "
            f"{len(self.pauses)}"
        )


class Audit:
    """Asks both gateways, so that what they say can be compared."""

    def __init__(self, clients: Clients, gateways: Sequence[Endpoint]) -> None:
        self._clients = clients
        self._gateways = gateways
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._states: dict[str, dict[str, Any]] = {}
        self.faults: list[str] = []

    async def look_up(self, public_id: str, request: RequestRecord) -> Found | None:
        """None, and a fault, where it has not ended within its deadline or where the gateways tell
        different things.
        """
        async with self._turns:
            try:
                await until(
                    lambda: self._ended(public_id), f"the end of {public_id}", DEADLINE + 30
                )
                first, *others = [
                    await self._result(gateway, public_id) for gateway in self._gateways
                ]
            except AssertionError as error:
                self.faults.append(f"lost: {error}")
                return None
        if any((other.status, other.body) != (first.status, first.body) for other in others):
            self.faults.append(f"{public_id}: two gateways tell two replies")
        state = self._states[public_id]
        code = str((state["error"] or {}).get("code") or "")
        return Found(state["status"], code, orjson.loads(request.body)["max_tokens"], first)

    async def _ended(self, public_id: str) -> bool:
        told = await self._clients.get(self._gateways[0], f"/v1/requests/{public_id}").end()
        assert told.status != 404, f"{public_id} is not found"
        if told.status == 200:
            self._states[public_id] = told.json
        if told.status != 200 or told.json["status"] not in _FINAL:
            await asyncio.sleep(_AGAIN)
            return False
        return True

    async def _result(self, gateway: Endpoint, public_id: str) -> Told:
        return await self._clients.get(gateway, f"/v1/requests/{public_id}/result").end()


def judge(promises: Sequence[Promise], found: Mapping[str, Found | None], totals: Totals) -> None:
    """Compares what was promised, what lies in the log and what was told."""
    for public_id, one in found.items():
        if one is None:
            totals.lost += 1
        else:
            totals.outcomes[one.status] += 1
            _judge_reply(public_id, one, totals)
    for promise in promises:
        totals.errors.update(promise.errors)
        _judge_promise(promise, found, totals)


def _judge_reply(public_id: str, one: Found, totals: Totals) -> None:
    numbers = numbers_of(text_of(one.told))
    completed = one.status == "completed"
    doubled, missing = gaps(numbers, one.count if completed else None)
    totals.doubled += doubled
    totals.missing += missing
    if doubled or missing:
        totals.faults.append(f"{public_id}: {one.status}, tokens {numbers}")
    if one.status in ("failed", "expired"):
        totals.faults.append(f"{public_id}: {one.status} {one.code}: {one.told.body[-200:]!r}")
    elif completed:
        try:
            _check_whole(one.told, one.count)
        except AssertionError as error:
            (*_, where) = traceback.extract_tb(error.__traceback__)
            odd = [event for event in one.told.events if not text_of(Told(events=[event]))]
            totals.faults.append(f"{public_id}: not as one run would have it: {where.line}: {odd}")


def _check_whole(told: Told, count: int) -> None:
    """But for the prompt's tokens: where only the end of a stream was missing, nobody was there to
    count them.
    """
    if not told.events:
        return check_whole_body(told, count)
    usages = [chunk["usage"]["completion_tokens"] for chunk in told.chunks if chunk.get("usage")]
    assert usages == [count]
    events = [event for event in told.events if event == DONE or not event.get("usage")]
    check_whole(Told(told.status, told.headers, told.body, events), count)


def _judge_promise(promise: Promise, found: Mapping[str, Found | None], totals: Totals) -> None:
    name = f"{promise.kind} {promise.ids}"
    totals.accepted += bool(promise.ids)
    unknown = [id_ for id_ in promise.ids if id_ not in found]
    totals.lost += len(unknown)
    totals.faults += [f"{name}: {id_} is not in the log" for id_ in unknown]
    doubled, missing = gaps(promise.numbers, promise.count if promise.answered else None)
    totals.doubled += doubled
    totals.missing += missing
    if doubled or missing:
        totals.faults.append(f"{name}: the client was told tokens {promise.numbers}")
    totals.pauses += [pause for pause in promise.pauses if pause > _INTERRUPTED]
    totals.faults += [
        f"{name}: an error that no fault explains: {error}"
        for error in set(promise.errors) - ALLOWED
    ]
    replies = [one for id_ in promise.ids if (one := found.get(id_)) is not None]
    completed = [one for one in replies if one.status == "completed"]
    if replies and not promise.left and not completed:
        totals.lost += 1
        totals.faults.append(
            f"{name}: ended as {[one.status for one in replies]}, and nobody had cancelled it"
        )
    if len(completed) > 1:
        totals.faults.append(f"{name}: {len(completed)} completed for one key")
    if len(replies) == 1 and not _is_beginning(promise, replies[0].told):
        totals.faults.append(
            f"{name}: what the client was told is not how the reply in the log begins"
        )


def _is_beginning(promise: Promise, reply: Told) -> bool:
    if not promise.stream:
        return not promise.answered or promise.told[-1].body == reply.body
    return promise.events == reply.events[: len(promise.events)]
