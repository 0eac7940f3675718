"""Counts each request that was answered 202 at once (Prefer: respond-async) at its end, as if its
client had waited.
"""

import asyncio
import time
from sys import intern

from app.errors import DeadlineExceeded, InternalError
from app.gateway.accounting.access_log import AccessLog, Line, client_id, noted
from app.gateway.http.asgi import Scope
from app.inference.async_requests import AsyncRequest, Owing
from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import EXPIRED


def async_request(call: PendingRequest, scope: Scope, grant: Owing | None) -> AsyncRequest:
    """Return what is kept of a request. Names are interned: few differ, and each would be a text of
    its own.
    """
    request, state = call.request, scope["state"]
    return AsyncRequest(
        fold=call.fold,
        public_id=call.public_id,
        path=intern(scope["path"]),
        named=intern(state["line"]["model"]),
        model=call.model,
        tenant=request.tenant,
        stream=request.stream,
        began=state["began"],
        client_id=client_id(scope),
        grant=grant,
    )


class AsyncAccounting:
    """Settles what a request took of its caller's limits, and writes its access line."""

    def __init__(self, access_log: AccessLog) -> None:
        self._access_log = access_log
        self._settling: set[asyncio.Task[None]] = set()

    def ended(self, request: AsyncRequest, final: ReplyRecord | None) -> None:
        """Count a request by its final record; without one its deadline has passed."""
        line, status = (
            _line_of(request, final),
            request.status or (InternalError if final else DeadlineExceeded).status,
        )
        if request.grant is None:
            self._write(request, status, line)
            return
        task = asyncio.create_task(self._settle(request, request.grant, status, line))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Wait until all that have ended are written."""
        await asyncio.gather(*self._settling)

    async def _settle(self, request: AsyncRequest, grant: Owing, status: int, line: Line) -> None:
        await grant.settle(line, status)
        self._write(request, status, line)

    def _write(self, request: AsyncRequest, status: int, line: Line) -> None:
        self._access_log.ended(
            {"method": "POST", "path": request.path, "headers": []}, status, line
        )


def _line_of(request: AsyncRequest, final: ReplyRecord | None) -> Line:
    line: Line = {
        "model": request.named,
        "tenant": request.tenant,
        "request_id": request.public_id,
        "async": True,
    }
    if request.client_id:
        line["client_request_id"] = request.client_id
    line["attempts"], line["worker"] = request.fold.attempts, request.fold.writer
    line.update(noted(final) if final else {"outcome": EXPIRED})
    line["total_ms"] = round((time.monotonic() - request.began) * 1000, 1)
    return line
