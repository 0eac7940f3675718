"""The same request sent again is joined while it runs and replayed when it has ended, by whichever gateway it reaches.

A key stands for an internal id and the reply's address from before the request is written, so that whoever finds the key can
find the reply, or write the request again under the same id: workers see that both are one.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import orjson

from app.contracts.fold import CANCELLED, COMPLETED
from app.errors import BusUnavailable, IdempotencyConflict, RequestNotFound, StoreUnavailable
from app.gateway.call import Call
from app.gateway.dispatch import Dispatcher
from app.gateway.replies import ReplyReader
from app.gateway.resources import Resource, Resources
from app.gateway.submission import Submission, Ticket
from app.settings import GatewaySettings
from app.stores.base import Store

logger = logging.getLogger("app.gateway.idempotency")

Answer = TypeVar("Answer")

_PLACED_SECONDS = 1.0  # how long the first gateway is given to say where it has put the request
_LOOK_SECONDS = 0.05
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key stands for."""

    id: str
    digest: str  # of path and body
    reply_partition: int
    reply_offset: int
    public_id: str = ""  # once the request lies in the log
    holder: str = ""  # who reads the reply last: it cancels when its client stays away

    @classmethod
    def of(cls, ticket: Ticket, digest: str) -> "Entry":
        return cls(ticket.id, digest, ticket.reply_partition, ticket.reply_offset, holder=secrets.token_hex(8))

    def ticket(self, *, maybe_duplicate: bool) -> Ticket:
        return Ticket(self.id, self.reply_partition, self.reply_offset, maybe_duplicate)

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> "Entry":
        return cls(**orjson.loads(value))


class Idempotency:
    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        resources: Resources,
        reader: ReplyReader,
        settings: GatewaySettings,
        ttl: float,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._resources = resources
        self._reader = reader
        self._grace = settings.cancel_grace
        self._ttl = ttl
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def opened(self, key: str, submission: Submission, *, grace: bool) -> AsyncIterator[Call]:
        """The call for this key: a new one, or one joined. Raises GatewayError.

        `grace`: the client may come back, so its leaving cancels only after CANCEL_GRACE_SECONDS.
        """
        digest = hashlib.sha256(submission.path.encode() + b"\0" + submission.body).hexdigest()
        name = f"idempotency:{submission.tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
        while True:
            entry = Entry.of(self._dispatcher.ticket(), digest)
            there = await _asked(self._store.put_if_absent(name, entry.encode(), self._ttl))
            if there is None:
                async with self._new(name, submission, entry, grace) as call:
                    yield call
                return
            found = Entry.decode(there)
            if found.digest != digest:
                raise IdempotencyConflict("this Idempotency-Key was used for another request", param="Idempotency-Key")
            resource = await self._resource(name, found, submission.tenant)
            if resource is None or not _runs_anew(resource):
                async with self._joined(name, found, resource, submission, grace) as call:
                    yield call
                return
            if await _asked(self._store.swap(name, (await self._now(name, found)).encode(), entry.encode(), self._ttl)):
                async with self._new(name, submission, entry, grace) as call:
                    yield call
                return

    @asynccontextmanager
    async def _new(self, name: str, submission: Submission, entry: Entry, grace: bool) -> AsyncIterator[Call]:
        call = await self._dispatcher.open(submission, entry.ticket(maybe_duplicate=False))
        held = await self._hold(name, replace(entry, public_id=call.public_id))
        try:
            yield call
        finally:
            self._leave(name, held, call, grace)

    @asynccontextmanager
    async def _joined(
        self, name: str, found: Entry, resource: Resource | None, submission: Submission, grace: bool
    ) -> AsyncIterator[Call]:
        """The reply of a request that is in the log, or that is written again because it is not."""
        if resource is None:
            begun = await self._dispatcher.write_again(submission, found.ticket(maybe_duplicate=True))
            found = replace(found, public_id=begun.public_id)
        else:
            begun = resource.call()
        held = await self._hold(name, replace(found, holder=secrets.token_hex(8)))
        async with self._reader.reading(begun) as call:
            try:
                yield call
            finally:
                self._leave(name, held, call, grace)

    async def _resource(self, name: str, found: Entry, tenant: str) -> Resource | None:
        """The request behind the key; None if the log does not have it."""
        entry = found
        for _ in range(int(_PLACED_SECONDS / _LOOK_SECONDS)):
            if entry.public_id:
                break
            await asyncio.sleep(_LOOK_SECONDS)
            entry = await self._now(name, found)
        try:
            return await self._resources.find(entry.public_id, tenant) if entry.public_id else None
        except RequestNotFound:
            return None

    async def _now(self, name: str, found: Entry) -> Entry:
        value = await _asked(self._store.get(name))
        return Entry.decode(value) if value else found

    async def _hold(self, name: str, entry: Entry) -> Entry:
        """Says where the request lies and who reads it now. Others may do so too: the last one counts."""
        now = await self._now(name, entry)
        if now.id == entry.id:
            await _asked(self._store.swap(name, now.encode(), entry.encode(), self._ttl))
        return entry

    def _leave(self, name: str, held: Entry, call: Call, grace: bool) -> None:
        if call.fold.outcome or call.let_go:
            self._dispatcher.forget(call)
        elif not grace:
            self._dispatcher.close(call)
        else:
            task = asyncio.create_task(self._cancel_unless_back(name, held, call))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _cancel_unless_back(self, name: str, held: Entry, call: Call) -> None:
        await asyncio.sleep(self._grace)
        try:
            value = await self._store.get(name)
        except StoreUnavailable as error:
            logger.warning("not known whether a client came back, so its request goes on: %s", error)
            return
        if value is not None and Entry.decode(value).holder == held.holder and not call.fold.outcome:
            self._dispatcher.end(call, CANCELLED)
        else:
            self._dispatcher.forget(call)


async def _asked(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except StoreUnavailable as error:
        raise BusUnavailable(f"the Idempotency-Key cannot be looked up: {error}", retry_after=1) from None


def _runs_anew(resource: Resource) -> bool:
    """Cancelled, expired, or failed in a way that may pass: the same request gets another chance."""
    final = resource.final
    return (
        final is not None and final.outcome != COMPLETED and (resource.head_status in _RETRYABLE or final.code == "worker_lost")
    )
