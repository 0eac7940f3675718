"""Calls as tests make and feed them."""

import time
from typing import Any

from app.errors import GatewayError
from app.gateway.accounting.async_accounting import make_async_request
from app.inference.async_requests import AsyncRequest, UnsettledReservation
from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, CLAIM, COMPLETED, DATA, FAILED, FINAL, RecordEffect
from app.protocol.request_id import fingerprint_topic
from tests.unit.scene import MODEL, REQUESTS, request

CANCELLED_BODY = b'{"error":{"message":"cancelled"}}'
EVENTS = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)
WORKER, GATEWAY = "w", "g"


def kept_of(
    call: PendingRequest, grant: UnsettledReservation | None = None, **headers: str
) -> AsyncRequest:
    """What is kept of a call whose client does not wait."""
    head = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    state = {"line": {"model": call.request.model}, "began": time.monotonic()}
    return make_async_request(
        call, {"path": "/v1/chat/completions", "headers": head, "state": state}, grant
    )


class Fed:
    """A call and the log it is fed from: each record gets the next offset and the writer's next
    number.
    """

    def __init__(self, asked: RequestRecord | None = None, **members: Any) -> None:
        self.call = PendingRequest(asked or request(**members), REQUESTS, MODEL)
        self.call.mark_accepted(0, 7)
        self.offset = 0
        self.seq = 0
        self.parts: list[ReplyRecord] = []  # those that count

    def feed(self, reply: ReplyRecord) -> RecordEffect:
        self.offset += 1
        step = self.call.apply_record(reply, self.offset - 1)
        if step in (RecordEffect.APPENDED, RecordEffect.ENDED):
            self.parts.append(reply)
        return step

    def data(self, value: bytes, **members: Any) -> RecordEffect:
        """A part; the first one has the head of an event stream."""
        head = {"status": 200, "head": EVENTS} if not self.seq and "status" not in members else {}
        return self._write(DATA, value, **{**head, **members})

    def end(self, value: bytes = b"", outcome: str = COMPLETED, **members: Any) -> RecordEffect:
        return self._write(FINAL, value, outcome=outcome, **members)

    def fail(self, error: GatewayError) -> RecordEffect:
        """As a worker does before the first token."""
        return self.end(
            error.encode_body(),
            FAILED,
            status=error.status,
            head=error.build_headers(),
            code=error.code or "",
        )

    def whole(self, value: bytes, *more: bytes, status: int = 200) -> RecordEffect:
        """A body, in as many records as it is given in."""
        *parts, last = (value, *more)
        for number, part in enumerate(parts):
            self.data(part, status=0 if number else status, head=() if number else JSON)
        first = {} if parts else {"status": status, "head": JSON}
        return self.end(last, COMPLETED if status < 400 else FAILED, **first)

    def claim(self, owner: str, supersedes: str = WORKER) -> RecordEffect:
        return self.feed(ReplyRecord(self.call.id, owner, CLAIM, supersedes=supersedes))

    def cancelled(self) -> RecordEffect:
        return self.feed(
            ReplyRecord(
                self.call.id,
                GATEWAY,
                FINAL,
                0,
                CANCELLED_BODY,
                status=409,
                head=JSON,
                outcome=CANCELLED,
                by_gateway=True,
            )
        )

    def _write(self, kind: str, value: bytes, **members: Any) -> RecordEffect:
        reply = ReplyRecord(
            self.call.id, members.pop("owner", WORKER), kind, self.seq, value, **members
        )
        step = self.feed(reply)
        self.seq += step is not RecordEffect.IGNORED
        return step


TOPIC = fingerprint_topic(REQUESTS)
