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
from app.inference.idempotency_entry import IdempotencyEntry
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

Result = TypeVar("Result")

# how long the first gateway is given to say where it has put the request
_PUBLIC_ID_WAIT_SECONDS = 1.0
_POLL_SECONDS = 0.05
_RETRYABLE_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})


class Idempotency:
    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        request_views: RequestViews,
        reply_reader: ReplyReader,
        settings: GatewaySettings,
        ttl_seconds: float,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._request_views = request_views
        self._reply_reader = reply_reader
        self._cancel_grace_seconds = settings.cancel_grace_seconds
        self._ttl_seconds = ttl_seconds
        self._background_tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open_request(
        self, key: str, submission: Submission, *, has_grace: bool
    ) -> AsyncIterator[PendingRequest]:
        """The call for this key: a new one, or one joined. Raises GatewayError.

        `has_grace`: it is the client's own key. The client may come back, so its leaving cancels
        only after CANCEL_GRACE_SECONDS; and without the store the request is refused, since it
        might run twice. A proxy's key may be forgotten.
        """
        content_type, body = submission.content_type, submission.body
        canonical_body = strip_boundary(content_type, body) if content_type else body
        digest = hashlib.sha256(submission.path.encode() + b"\0" + canonical_body).hexdigest()
        store_key = f"idempotency:{submission.tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
        while True:
            entry = IdempotencyEntry.from_ticket(self._dispatcher.issue_ticket(), digest)
            try:
                existing_value = await _await_store(
                    self._store.put_if_absent(store_key, entry.encode(), self._ttl_seconds)
                )
            except BusUnavailable:
                if has_grace:
                    raise
                break
            if existing_value is None:
                async with self._open_new_request(
                    store_key, submission, entry, has_grace
                ) as pending:
                    yield pending
                return
            if IdempotencyEntry.decode(existing_value).digest != digest:
                raise IdempotencyConflict(
                    "this Idempotency-Key was used for another request", param="Idempotency-Key"
                )
            existing_entry = await self._wait_for_public_id(
                store_key, IdempotencyEntry.decode(existing_value)
            )
            if existing_entry is None:
                continue
            request_view = await self._find_request(existing_entry, submission.tenant)
            if request_view is None or not _should_run_again(request_view):
                async with self._join_request(
                    store_key, existing_entry, request_view, submission, has_grace
                ) as pending:
                    yield pending
                return
            if await self._update_entry(
                store_key, existing_entry.id, entry.as_replacement, self._ttl_seconds
            ):
                async with self._open_new_request(
                    store_key, submission, entry, has_grace
                ) as pending:
                    yield pending
                return
        async with self._dispatcher.open_request(submission) as pending:
            yield pending

    @asynccontextmanager
    async def _open_new_request(
        self, store_key: str, submission: Submission, entry: IdempotencyEntry, has_grace: bool
    ) -> AsyncIterator[PendingRequest]:
        try:
            pending = await self._dispatcher.submit_request(
                submission, entry.make_ticket(maybe_duplicate=False)
            )
        except GatewayError:
            # the key is free again: what was not taken has nothing that could be joined
            with suppress(StoreUnavailable):
                await self._store.compare_and_swap(store_key, entry.encode(), entry.encode(), 0)
            raise
        async with self._register_reader(store_key, pending, has_grace):
            yield pending

    @asynccontextmanager
    async def _join_request(
        self,
        store_key: str,
        entry: IdempotencyEntry,
        request_view: RequestView | None,
        submission: Submission,
        has_grace: bool,
    ) -> AsyncIterator[PendingRequest]:
        """The reply of a request that is in the log, or that is written again because it is not."""
        if request_view is None:
            pending_request = await self._dispatcher.resubmit_request(
                submission, entry.make_ticket(maybe_duplicate=True)
            )
        else:
            pending_request = request_view.make_pending_request()
        async with self._reply_reader.follow_reply(pending_request) as pending:
            # nothing depends any more on who reads it
            if request_view is not None and request_view.final is not None:
                yield pending
                return
            try:
                async with self._register_reader(store_key, pending, has_grace):
                    yield pending
            finally:
                if pending.reply_state.outcome:
                    self._run_in_background(self._clear_readers(store_key, pending))

    @asynccontextmanager
    async def _register_reader(
        self, store_key: str, pending: PendingRequest, has_grace: bool
    ) -> AsyncIterator[None]:
        """Says where the request lies and that a client waits for it; at the end, cancels it if
        none does any more.
        """
        reader_id = secrets.token_hex(8)
        try:
            # it is accepted: whoever finds no place under the key writes it again
            with suppress(BusUnavailable):
                await self._update_entry(
                    store_key,
                    pending.id,
                    lambda entry: entry.with_reader(reader_id, pending.public_id),
                )
            yield
        finally:
            self._unregister_reader(store_key, reader_id, pending, has_grace)

    async def _wait_for_public_id(
        self, store_key: str, entry: IdempotencyEntry
    ) -> IdempotencyEntry | None:
        """The entry once it says where the request lies, or after a while; None if the key is free
        again or another's.
        """
        for _ in range(int(_PUBLIC_ID_WAIT_SECONDS / _POLL_SECONDS)):
            if entry.public_id:
                break
            await asyncio.sleep(_POLL_SECONDS)
            value = await _await_store(self._store.get(store_key))
            if value is None or (stored_entry := IdempotencyEntry.decode(value)).id != entry.id:
                return None
            entry = stored_entry
        return entry

    async def _find_request(self, entry: IdempotencyEntry, tenant: str) -> RequestView | None:
        """The request behind the key; None if the log does not have it."""
        try:
            return (
                await self._request_views.find_request(entry.public_id, tenant)
                if entry.public_id
                else None
            )
        except RequestNotFound:
            return None

    async def _update_entry(
        self,
        store_key: str,
        id_: str,
        update: Callable[[IdempotencyEntry], IdempotencyEntry],
        ttl_seconds: float | None = None,
    ) -> bool:
        """False if the key does not stand for that request any more. Without a `ttl_seconds` the
        key's time stays as it is: the reply is not kept longer for being read, and a key that
        outlived it would run the request again.
        """
        while True:
            value = await _await_store(self._store.get(store_key))
            if value is None or (entry := IdempotencyEntry.decode(value)).id != id_:
                return False
            updated_entry = update(entry)
            if updated_entry == entry or await _await_store(
                self._store.compare_and_swap(store_key, value, updated_entry.encode(), ttl_seconds)
            ):
                return True

    def _unregister_reader(
        self, store_key: str, reader_id: str, pending: PendingRequest, has_grace: bool
    ) -> None:
        if pending.reply_state.outcome or pending.is_detached:
            self._dispatcher.forget_request(pending)
        elif not has_grace:
            self._dispatcher.close_request(pending)
        else:
            self._run_in_background(self._cancel_unless_rejoined(store_key, reader_id, pending))

    def _run_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    async def _clear_readers(self, store_key: str, pending: PendingRequest) -> None:
        """The first of a crowd does it for all; of one that nobody has joined, one name is no
        burden.
        """
        with suppress(BusUnavailable):
            await self._update_entry(store_key, pending.id, IdempotencyEntry.without_readers)

    async def _cancel_unless_rejoined(
        self, store_key: str, reader_id: str, pending: PendingRequest
    ) -> None:
        is_abandoned = False
        try:
            await self._update_entry(
                store_key, pending.id, lambda entry: entry.without_reader(reader_id)
            )
            await asyncio.sleep(self._cancel_grace_seconds)
            value = await self._store.get(store_key)
            is_abandoned = (
                value is not None
                and (entry := IdempotencyEntry.decode(value)).left == reader_id
                and not entry.readers
            )
        except (StoreUnavailable, BusUnavailable) as error:
            logger.warning(
                "not known whether a client came back, so its request goes on: %s", error
            )
        if is_abandoned and not pending.reply_state.outcome:
            self._dispatcher.end_request(pending, CANCELLED)
        else:
            self._dispatcher.forget_request(pending)


async def _await_store(store_call: Awaitable[Result]) -> Result:
    try:
        return await store_call
    except StoreUnavailable as error:
        logger.warning("no Idempotency-Key can be looked up: %s", error)
        raise BusUnavailable(
            "the Idempotency-Key cannot be looked up just now", retry_after_seconds=1
        ) from None


def _should_run_again(request_view: RequestView) -> bool:
    """Cancelled, expired, or failed in a way that may pass: the same request gets another
    chance.
    """
    final = request_view.final
    if final is None or final.outcome != FAILED:
        return final is not None and final.outcome in (CANCELLED, EXPIRED)
    return request_view.http_status in _RETRYABLE_STATUSES or final.code == "worker_lost"
