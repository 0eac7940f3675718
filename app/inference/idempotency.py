"""The same request sent again is joined while it runs and replayed when it has ended, by whichever
gateway it reaches.

A key stands for an internal id and the reply's address from before the request is written, so that
whoever finds the key can find the reply, or write the request again under the same id: workers see
that both are one.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from app.config.gateway_settings import GatewaySettings
from app.errors import (
    BusUnavailable,
    GatewayError,
    IdempotencyConflict,
    RequestNotFound,
    StoreUnavailable,
)
from app.inference.dispatcher import Dispatcher
from app.inference.idempotency_entry import Entry
from app.inference.pending_request import PendingRequest
from app.inference.reply_reader import ReplyReader
from app.inference.request_view import RequestView, RequestViews
from app.inference.submission import Submission
from app.openai_api.multipart import strip_boundary
from app.protocol.reply_state import CANCELLED, EXPIRED, FAILED
from app.stores.base import Store
from app.telemetry.logs import Throttle

logger = logging.getLogger("app.inference.idempotency")
logger.addFilter(Throttle())

Answer = TypeVar("Answer")

_PLACED_SECONDS = 1.0  # how long the first gateway is given to say where it has put the request
_LOOK_SECONDS = 0.05
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


class Idempotency:
    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        resources: RequestViews,
        reader: ReplyReader,
        settings: GatewaySettings,
        ttl: float,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._resources = resources
        self._reader = reader
        self._grace = settings.cancel_grace_seconds
        self._ttl = ttl
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def opened(
        self, key: str, submission: Submission, *, grace: bool
    ) -> AsyncIterator[PendingRequest]:
        """The call for this key: a new one, or one joined. Raises GatewayError.

        `grace`: it is the client's own key. The client may come back, so its leaving cancels only
        after CANCEL_GRACE_SECONDS; and without the store the request is refused, since it might run
        twice. A proxy's key may be forgotten.
        """
        form, body = submission.content_type, submission.body
        said = strip_boundary(form, body) if form else body
        digest = hashlib.sha256(submission.path.encode() + b"\0" + said).hexdigest()
        name = f"idempotency:{submission.tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
        while True:
            entry = Entry.of(self._dispatcher.ticket(), digest)
            try:
                there = await _asked(self._store.put_if_absent(name, entry.encode(), self._ttl))
            except BusUnavailable:
                if grace:
                    raise
                break
            if there is None:
                async with self._new(name, submission, entry, grace) as call:
                    yield call
                return
            if Entry.decode(there).digest != digest:
                raise IdempotencyConflict(
                    "this Idempotency-Key was used for another request", param="Idempotency-Key"
                )
            found = await self._placed(name, Entry.decode(there))
            if found is None:
                continue
            resource = await self._resource(found, submission.tenant)
            if resource is None or not _runs_anew(resource):
                async with self._joined(name, found, resource, submission, grace) as call:
                    yield call
                return
            if await self._change(name, found.id, entry.instead_of, self._ttl):
                async with self._new(name, submission, entry, grace) as call:
                    yield call
                return
        async with self._dispatcher.opened(submission) as call:
            yield call

    @asynccontextmanager
    async def _new(
        self, name: str, submission: Submission, entry: Entry, grace: bool
    ) -> AsyncIterator[PendingRequest]:
        try:
            call = await self._dispatcher.open(submission, entry.ticket(maybe_duplicate=False))
        except GatewayError:
            # the key is free again: what was not taken has nothing that could be joined
            with suppress(StoreUnavailable):
                await self._store.compare_and_swap(name, entry.encode(), entry.encode(), 0)
            raise
        async with self._read(name, call, grace):
            yield call

    @asynccontextmanager
    async def _joined(
        self,
        name: str,
        found: Entry,
        resource: RequestView | None,
        submission: Submission,
        grace: bool,
    ) -> AsyncIterator[PendingRequest]:
        """The reply of a request that is in the log, or that is written again because it is not."""
        if resource is None:
            begun = await self._dispatcher.write_again(
                submission, found.ticket(maybe_duplicate=True)
            )
        else:
            begun = resource.call()
        async with self._reader.reading(begun) as call:
            # nothing depends any more on who reads it
            if resource is not None and resource.final is not None:
                yield call
                return
            try:
                async with self._read(name, call, grace):
                    yield call
            finally:
                if call.fold.outcome:
                    self._in_background(self._forget_readers(name, call))

    @asynccontextmanager
    async def _read(self, name: str, call: PendingRequest, grace: bool) -> AsyncIterator[None]:
        """Says where the request lies and that a client waits for it; at the end, cancels it if
        none does any more.
        """
        reader = secrets.token_hex(8)
        try:
            # it is accepted: whoever finds no place under the key writes it again
            with suppress(BusUnavailable):
                await self._change(
                    name, call.id, lambda entry: entry.joined_by(reader, call.public_id)
                )
            yield
        finally:
            self._leave(name, reader, call, grace)

    async def _placed(self, name: str, found: Entry) -> Entry | None:
        """The entry once it says where the request lies, or after a while; None if the key is free
        again or another's.
        """
        for _ in range(int(_PLACED_SECONDS / _LOOK_SECONDS)):
            if found.public_id:
                break
            await asyncio.sleep(_LOOK_SECONDS)
            value = await _asked(self._store.get(name))
            if value is None or (now := Entry.decode(value)).id != found.id:
                return None
            found = now
        return found

    async def _resource(self, found: Entry, tenant: str) -> RequestView | None:
        """The request behind the key; None if the log does not have it."""
        try:
            return await self._resources.find(found.public_id, tenant) if found.public_id else None
        except RequestNotFound:
            return None

    async def _change(
        self, name: str, id_: str, change: Callable[[Entry], Entry], ttl: float | None = None
    ) -> bool:
        """False if the key does not stand for that request any more. Without a `ttl` the key's time
        stays as it is: the reply is not kept longer for being read, and a key that outlived it
        would run the request again.
        """
        while True:
            value = await _asked(self._store.get(name))
            if value is None or (entry := Entry.decode(value)).id != id_:
                return False
            changed = change(entry)
            if changed == entry or await _asked(
                self._store.compare_and_swap(name, value, changed.encode(), ttl)
            ):
                return True

    def _leave(self, name: str, reader: str, call: PendingRequest, grace: bool) -> None:
        if call.fold.outcome or call.let_go:
            self._dispatcher.forget(call)
        elif not grace:
            self._dispatcher.close(call)
        else:
            self._in_background(self._cancel_unless_back(name, reader, call))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _forget_readers(self, name: str, call: PendingRequest) -> None:
        """The first of a crowd does it for all; of one that nobody has joined, one name is no
        burden.
        """
        with suppress(BusUnavailable):
            await self._change(name, call.id, Entry.ended)

    async def _cancel_unless_back(self, name: str, reader: str, call: PendingRequest) -> None:
        alone = False
        try:
            await self._change(name, call.id, lambda entry: entry.left_by(reader))
            await asyncio.sleep(self._grace)
            value = await self._store.get(name)
            alone = (
                value is not None
                and (entry := Entry.decode(value)).left == reader
                and not entry.readers
            )
        except (StoreUnavailable, BusUnavailable) as error:
            logger.warning(
                "not known whether a client came back, so its request goes on: %s", error
            )
        if alone and not call.fold.outcome:
            self._dispatcher.end(call, CANCELLED)
        else:
            self._dispatcher.forget(call)


async def _asked(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except StoreUnavailable as error:
        logger.warning("no Idempotency-Key can be looked up: %s", error)
        raise BusUnavailable(
            "the Idempotency-Key cannot be looked up just now", retry_after_seconds=1
        ) from None


def _runs_anew(resource: RequestView) -> bool:
    """Cancelled, expired, or failed in a way that may pass: the same request gets another
    chance.
    """
    final = resource.final
    if final is None or final.outcome != FAILED:
        return final is not None and final.outcome in (CANCELLED, EXPIRED)
    return resource.head_status in _RETRYABLE or final.code == "worker_lost"
