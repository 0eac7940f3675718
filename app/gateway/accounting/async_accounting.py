"""Counts each request that was answered 202 at once (Prefer: respond-async) at its end, as if its
client had waited.
"""

import asyncio
import time
from sys import intern

from app.errors import DeadlineExceeded, InternalError
from app.gateway.accounting.access_log import AccessLine, AccessLog, client_id, final_reply_fields
from app.gateway.http.asgi import Scope
from app.inference.async_requests import AsyncRequest, UnsettledReservation
from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import EXPIRED


def make_async_request(
    pending: PendingRequest, scope: Scope, reservation: UnsettledReservation | None
) -> AsyncRequest:
    """Return what is kept of a request. Names are interned: few differ, and each would be a text of
    its own.
    """
    request, state = pending.request, scope["state"]
    return AsyncRequest(
        reply_state=pending.reply_state,
        public_id=pending.public_id,
        path=intern(scope["path"]),
        requested_model=intern(state["line"]["model"]),
        model_id=pending.model_id,
        tenant=request.tenant,
        stream=request.stream,
        started_at=state["began"],
        client_id=client_id(scope),
        reservation=reservation,
    )


class AsyncAccounting:
    """Settles what a request took of its caller's limits, and writes its access line."""

    def __init__(self, access_log: AccessLog) -> None:
        self._access_log = access_log
        self._settlement_tasks: set[asyncio.Task[None]] = set()

    def account_request(self, request: AsyncRequest, final: ReplyRecord | None) -> None:
        """Count a request by its final record; without one its deadline has passed."""
        line, status = (
            _make_access_line(request, final),
            request.status or (InternalError if final else DeadlineExceeded).status,
        )
        if request.reservation is None:
            self._log_request(request, status, line)
            return
        task = asyncio.create_task(self._settle_and_log(request, request.reservation, status, line))
        self._settlement_tasks.add(task)
        task.add_done_callback(self._settlement_tasks.discard)

    async def close(self) -> None:
        """Wait until all that have ended are written."""
        await asyncio.gather(*self._settlement_tasks)

    async def _settle_and_log(
        self,
        request: AsyncRequest,
        reservation: UnsettledReservation,
        status: int,
        line: AccessLine,
    ) -> None:
        await reservation.settle(line, status)
        self._log_request(request, status, line)

    def _log_request(self, request: AsyncRequest, status: int, line: AccessLine) -> None:
        self._access_log.log_request(
            {"method": "POST", "path": request.path, "headers": []}, status, line
        )


def _make_access_line(request: AsyncRequest, final: ReplyRecord | None) -> AccessLine:
    line: AccessLine = {
        "model": request.requested_model,
        "tenant": request.tenant,
        "request_id": request.public_id,
        "async": True,
    }
    if request.client_id:
        line["client_request_id"] = request.client_id
    line["attempts"], line["worker"] = request.reply_state.attempts, request.reply_state.writer
    line.update(final_reply_fields(final) if final else {"outcome": EXPIRED})
    line["total_ms"] = round((time.monotonic() - request.started_at) * 1000, 1)
    return line
