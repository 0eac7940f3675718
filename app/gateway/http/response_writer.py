"""Writes a reply to its client: whole, or as server-sent events."""

import time
from collections import deque
from collections.abc import Callable

from app.config.gateway_settings import GatewaySettings
from app.errors import BadRequest
from app.gateway.http.asgi import Send, WriteChunk, send_response
from app.gateway.http.reply_body import (
    ReplyBody,
    assemble_body,
    assemble_events,
    build_reply_headers,
    is_event_stream,
    refuse_binary,
)
from app.inference.pending_request import PendingRequest
from app.openai_api.body_as_events import convert_body_to_events
from app.openai_api.endpoints import find_endpoint
from app.openai_api.sse import (
    DONE_EVENT,
    add_event_ids,
    count_events,
    drop_seen_events,
    encode_event,
    has_event_id,
    strip_blank_line,
)
from app.protocol.records import ReplyRecord

KEEPALIVE_COMMENT = b": keep-alive\n\n"

_MAX_LATEST_PARTS = 4  # of a stream, which tell whether the answer is complete

_QUEUE_COMMENT_INTERVAL_SECONDS = 1.0  # between two comments that tell a client's place
_EVENT_STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),  # nginx: pass each event on at once
)


async def send_reply(pending: PendingRequest, send: Send) -> ReplyRecord:
    """The whole reply as one body. Returns its last record."""
    parts = await pending.read_whole_reply(None) or []
    body = assemble_body(parts, stream=False)
    headers = build_reply_headers(pending.public_id, body.head)
    timing = _build_server_timing(parts[-1])
    if timing:
        headers.append((b"server-timing", timing))
    await send_response(send, body.status, headers, body.value)
    return parts[-1]


class EventStream:
    """A reply as server-sent events. The first record decides the status, unless it takes too long.

    `has_event_ids`: each event gets its number as `id:`. `last_seen_number`: events up to this
    number are left out. `sends_head_at_once`: the head does not wait for the reply.
    `make_queue_comment`: tells the request's place in the queue, for comments until it is answered.
    `write_chunk`: writes events without `send`, where that can be done (asgi.py's extension).
    """

    def __init__(
        self,
        pending: PendingRequest,
        send: Send,
        settings: GatewaySettings,
        *,
        has_event_ids: bool = False,
        last_seen_number: int = 0,
        sends_head_at_once: bool = False,
        make_queue_comment: Callable[[], bytes] | None = None,
        write_chunk: WriteChunk | None = None,
    ) -> None:
        self._pending = pending
        self._path = pending.request.path
        self._send = send
        self._head_after_seconds = settings.sse_head_after_seconds or None
        self._keepalive_seconds = settings.sse_keepalive_seconds or None
        self._has_event_ids = has_event_ids
        self._latest_parts = deque[bytes](maxlen=_MAX_LATEST_PARTS)
        self._last_seen_number = last_seen_number
        self._sends_head_at_once = sends_head_at_once
        self._make_queue_comment = make_queue_comment
        self._write_chunk = None if has_event_ids or last_seen_number else write_chunk
        self._next_event_number = 1
        self._is_head_sent = False
        # by the monotonic clock, when the first part of the reply was there
        self.first_part_at = 0.0

    async def run(self) -> ReplyRecord:
        """Returns the reply's last record. Raises ClientGone."""
        part = await self._read_first_part()
        if not self._is_head_sent:
            if part is not None and not is_event_stream(part.head):
                return await self._send_whole_body(part)
            await self._send_head(part)
        if not self._pending.request.stream:
            return await self._send_end(await self._send_body_as_events())
        try:
            *body, final = await self._send_parts(part)
        finally:
            self._pending.sink = None
        events = assemble_events([*body, final], self._path)
        # it is no event of the reply, so it has no number of the reply's
        if final is self._pending.local_final:
            await self._send_chunk(events)
        else:
            await self._send_events(events)
        return await self._send_end(final)

    @property
    def is_answer_complete(self) -> bool:
        """Whether the client has been sent the event that completes the answer."""
        return find_endpoint(self._path).is_complete(b"".join(self._latest_parts))

    async def _send_parts(self, part: ReplyRecord | None) -> list[ReplyRecord]:
        """Send the records of the stream as they come. Return those that were not sent: the final,
        behind those of a body.
        """
        body: list[ReplyRecord] = []
        while part is None or not part.outcome:
            if part is not None and part.status:
                body = []
            if part is not None and (body or (part.status and not is_event_stream(part.head))):
                self._pending.sink = None
                body.append(part)
            elif part is not None:
                await self._send_events(part.value)
                self._latest_parts.append(part.value)
                self._pending.sink = self._write_part
            part = await self._pending.read_next_part(self._keepalive_seconds)
            if part is None:
                await self._send_keepalive()
        return [part] if part.status else [*body, part]

    def _write_part(self, part: ReplyRecord) -> bool:
        is_written = (
            self._write_chunk is not None
            and not part.status
            and bool(part.value)
            and self._write_chunk(part.value)
        )
        if is_written:
            self._latest_parts.append(part.value)
        return is_written

    async def _read_first_part(self) -> ReplyRecord | None:
        if not self._pending.request.stream or self._sends_head_at_once:
            await self._send_head(None)
            return None
        if self._make_queue_comment is None:
            return await self._pending.read_next_part(self._head_after_seconds)
        await self._send_head(None)
        while (
            part := await self._pending.read_next_part(_QUEUE_COMMENT_INTERVAL_SECONDS)
        ) is None and not self._pending.has_started:
            await self._send_chunk(
                strip_blank_line(self._make_queue_comment())
                if self._has_event_ids
                else self._make_queue_comment()
            )
        return part

    async def _send_head(self, first: ReplyRecord | None) -> None:
        self._is_head_sent = True
        other_headers = [pair for pair in first.head if pair[0] != "content-type"] if first else []
        headers = build_reply_headers(
            self._pending.public_id, (*_EVENT_STREAM_HEADERS, *other_headers)
        )
        status = first.status if first and first.status else 200
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_whole_body(self, first: ReplyRecord) -> ReplyRecord:
        """What is no event stream goes out as one body, an error before the first token above
        all.
        """
        parts = [first]
        while not parts[-1].outcome:
            parts += filter(None, [await self._pending.read_next_part(None)])
        body = assemble_body(parts, stream=False)
        await send_response(
            self._send,
            body.status,
            build_reply_headers(self._pending.public_id, body.head),
            body.value,
        )
        return parts[-1]

    async def _send_body_as_events(self) -> ReplyRecord:
        """A whole reply as one event and the end; one that is no text as an error."""
        while (parts := await self._pending.read_whole_reply(self._keepalive_seconds)) is None:
            await self._send_keepalive()
        body = assemble_body(parts, stream=False)
        try:
            refuse_binary(body.head, self._pending.public_id)
        except BadRequest as error:
            body = ReplyBody(error.status, error.build_headers(), error.encode_body())
        if body.status >= 400:
            content_type = dict(body.head).get("content-type", "")
            await self._send_events(
                convert_body_to_events(
                    find_endpoint(self._path), body.status, content_type, body.value
                )
            )
        else:
            await self._send_events(encode_event(body.value) + DONE_EVENT)
        return parts[-1]

    async def _send_keepalive(self) -> None:
        """Send a comment. Once a client has an id, ours or its upstream's, it ends by no blank
        line: see `with_ids`.
        """
        has_ids = self._has_event_ids or any(map(has_event_id, self._latest_parts))
        await self._send_chunk(
            strip_blank_line(KEEPALIVE_COMMENT) if has_ids else KEEPALIVE_COMMENT
        )

    async def _send_events(self, events: bytes) -> None:
        if not self.first_part_at:
            self.first_part_at = time.monotonic()
        if self._has_event_ids or self._last_seen_number:
            first_number, self._next_event_number = (
                self._next_event_number,
                self._next_event_number + count_events(events),
            )
            events = drop_seen_events(events, first_number, self._last_seen_number)
            events = (
                add_event_ids(events, max(first_number, self._last_seen_number + 1))
                if self._has_event_ids
                else events
            )
        if events:
            await self._send_chunk(events)

    async def _send_chunk(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _send_end(self, final: ReplyRecord) -> ReplyRecord:
        await self._send({"type": "http.response.body", "body": b""})
        return final


def _build_server_timing(final: ReplyRecord) -> bytes:
    """https://www.w3.org/TR/server-timing/ , milliseconds."""
    notes = dict(final.notes)
    timings = [
        (name, notes[f"{name}-ms"]) for name in ("queue", "upstream") if f"{name}-ms" in notes
    ]
    return ", ".join(f"{name};dur={value}" for name, value in timings).encode()
