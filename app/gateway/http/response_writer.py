"""Writes a reply to its client: whole, or as server-sent events."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from app.config.gateway_settings import GatewaySettings
from app.errors import BadRequest
from app.gateway.http.asgi import RawHeaders, Send, WriteChunk, raw, send_whole
from app.inference.pending_request import PendingRequest
from app.openai_api.bodies import is_text_content_type
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

KEEPALIVE = b": keep-alive\n\n"

_LATEST_PARTS = 4  # of a stream, which tell whether the answer is complete

_EVENT_NUMBER = re.compile(r"[0-9]{1,18}")
_QUEUE_SECONDS = 1.0  # between two comments that tell a client's place
_EVENT_STREAM = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),  # nginx: pass each event on at once
)


class Body(NamedTuple):
    """A whole response."""

    status: int
    head: tuple[tuple[str, str], ...]
    value: bytes


def whole_body(parts: Sequence[ReplyRecord], *, stream: bool, path: str = "") -> Body:
    """What a client that waited got: the last writer's body, or all events of a stream."""
    if stream and is_event_stream(parts[0].head):
        return Body(parts[0].status or 200, parts[0].head, events_of(parts, path))
    begin = max((index for index, part in enumerate(parts) if part.status), default=0)
    first = parts[begin]
    return Body(first.status or 500, first.head, b"".join(part.value for part in parts[begin:]))


def refuse_binary(head: Iterable[tuple[str, str]], public_id: str) -> None:
    """Raises BadRequest if a reply with this head is no text: an event holds nothing else."""
    kind = dict(head).get("content-type", "")
    if not is_text_content_type(kind):
        said = f"the reply is {kind}, which is no text and has no events"
        raise BadRequest(f"{said}; GET /v1/requests/{public_id}/result has it", param="id")


def is_event_stream(head: Iterable[tuple[str, str]]) -> bool:
    """Return whether a reply with this head is a stream. Media types are case-insensitive (RFC 9110
    section 8.3.1).
    """
    return any(
        name == "content-type" and value.lower().startswith("text/event-stream")
        for name, value in head
    )


def events_of(parts: Iterable[ReplyRecord], path: str) -> bytes:
    """Return a stream's records as events. Those of a writer that wrote a body are one body, and
    become events together.
    """
    events: list[bytes] = []
    body: list[ReplyRecord] = []
    for part in parts:
        if part.status:  # a writer begins: what is left of a body before it was shown to no client
            body = []
        if body or (part.status and not is_event_stream(part.head)):
            body.append(part)
        else:
            events.append(part.value)
    if body:
        first, value = body[0], b"".join(part.value for part in body)
        events.append(
            convert_body_to_events(
                find_endpoint(path), first.status, dict(first.head).get("content-type", ""), value
            )
        )
    return b"".join(events)


def event_number(text: str, param: str) -> int:
    """The number of the last event that a client says it has; 0 if it says nothing. Raises
    BadRequest, naming `param`.
    """
    if text and not _EVENT_NUMBER.fullmatch(text):
        raise BadRequest(f"{param}: expected the number of an event, 0 or more", param=param)
    return int(text or 0)


def headers_of(public_id: str, head: Iterable[tuple[str, str]]) -> RawHeaders:
    return [*raw(head), (b"x-request-id", public_id.encode())]


async def send_reply(call: PendingRequest, send: Send) -> ReplyRecord:
    """The whole reply as one body. Returns its last record."""
    parts = await call.whole(None) or []
    body = whole_body(parts, stream=False)
    headers = headers_of(call.public_id, body.head)
    timing = _server_timing(parts[-1])
    if timing:
        headers.append((b"server-timing", timing))
    await send_whole(send, body.status, headers, body.value)
    return parts[-1]


class EventStream:
    """A reply as server-sent events. The first record decides the status, unless it takes too long.

    `ids`: each event gets its number as `id:`. `seen`: events up to this number are left out.
    `at_once`: the head does not wait for the reply. `place`: tells the request's place in the
    queue, for comments until it is answered. `write`: writes events without `send`, where that can
    be done (asgi.py's extension).
    """

    def __init__(
        self,
        call: PendingRequest,
        send: Send,
        settings: GatewaySettings,
        *,
        ids: bool = False,
        seen: int = 0,
        at_once: bool = False,
        place: Callable[[], bytes] | None = None,
        write: WriteChunk | None = None,
    ) -> None:
        self._call = call
        self._path = call.request.path
        self._send = send
        self._head_after = settings.sse_head_after_seconds or None
        self._keepalive = settings.sse_keepalive_seconds or None
        self._ids = ids
        self._latest = deque[bytes](maxlen=_LATEST_PARTS)
        self._seen = seen
        self._at_once = at_once
        self._place = place
        self._write_chunk = None if ids or seen else write
        self._next_event = 1
        self._begun = False
        self.first_at = 0.0  # by the monotonic clock, when the first part of the reply was there

    async def run(self) -> ReplyRecord:
        """Returns the reply's last record. Raises ClientGone."""
        part = await self._first()
        if not self._begun:
            if part is not None and not is_event_stream(part.head):
                return await self._whole(part)
            await self._begin(part)
        if not self._call.request.stream:
            return await self._end(await self._body_as_events())
        try:
            *body, final = await self._parts(part)
        finally:
            self._call.sink = None
        events = events_of([*body, final], self._path)
        # it is no event of the reply, so it has no number of the reply's
        if final is self._call.farewell:
            await self._body(events)
        else:
            await self._write(events)
        return await self._end(final)

    @property
    def is_answered(self) -> bool:
        """Whether the client has been sent the event that completes the answer."""
        return find_endpoint(self._path).is_complete(b"".join(self._latest))

    async def _parts(self, part: ReplyRecord | None) -> list[ReplyRecord]:
        """Send the records of the stream as they come. Return those that were not sent: the final,
        behind those of a body.
        """
        body: list[ReplyRecord] = []
        while part is None or not part.outcome:
            if part is not None and part.status:
                body = []
            if part is not None and (body or (part.status and not is_event_stream(part.head))):
                self._call.sink = None
                body.append(part)
            elif part is not None:
                await self._write(part.value)
                self._latest.append(part.value)
                self._call.sink = self._sink
            part = await self._call.next(self._keepalive)
            if part is None:
                await self._keep_alive()
        return [part] if part.status else [*body, part]

    def _sink(self, part: ReplyRecord) -> bool:
        written = (
            self._write_chunk is not None
            and not part.status
            and bool(part.value)
            and self._write_chunk(part.value)
        )
        if written:
            self._latest.append(part.value)
        return written

    async def _first(self) -> ReplyRecord | None:
        if not self._call.request.stream or self._at_once:
            await self._begin(None)
            return None
        if self._place is None:
            return await self._call.next(self._head_after)
        await self._begin(None)
        while (part := await self._call.next(_QUEUE_SECONDS)) is None and not self._call.answered:
            await self._body(strip_blank_line(self._place()) if self._ids else self._place())
        return part

    async def _begin(self, first: ReplyRecord | None) -> None:
        self._begun = True
        others = [pair for pair in first.head if pair[0] != "content-type"] if first else []
        headers = headers_of(self._call.public_id, (*_EVENT_STREAM, *others))
        status = first.status if first and first.status else 200
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _whole(self, first: ReplyRecord) -> ReplyRecord:
        """What is no event stream goes out as one body, an error before the first token above
        all.
        """
        parts = [first]
        while not parts[-1].outcome:
            parts += filter(None, [await self._call.next(None)])
        body = whole_body(parts, stream=False)
        await send_whole(
            self._send, body.status, headers_of(self._call.public_id, body.head), body.value
        )
        return parts[-1]

    async def _body_as_events(self) -> ReplyRecord:
        """A whole reply as one event and the end; one that is no text as an error."""
        while (parts := await self._call.whole(self._keepalive)) is None:
            await self._keep_alive()
        body = whole_body(parts, stream=False)
        try:
            refuse_binary(body.head, self._call.public_id)
        except BadRequest as error:
            body = Body(error.status, error.build_headers(), error.encode_body())
        if body.status >= 400:
            kind = dict(body.head).get("content-type", "")
            await self._write(
                convert_body_to_events(find_endpoint(self._path), body.status, kind, body.value)
            )
        else:
            await self._write(encode_event(body.value) + DONE_EVENT)
        return parts[-1]

    async def _keep_alive(self) -> None:
        """Send a comment. Once a client has an id, ours or its upstream's, it ends by no blank
        line: see `with_ids`.
        """
        has_ids = self._ids or any(map(has_event_id, self._latest))
        await self._body(strip_blank_line(KEEPALIVE) if has_ids else KEEPALIVE)

    async def _write(self, events: bytes) -> None:
        if not self.first_at:
            self.first_at = time.monotonic()
        if self._ids or self._seen:
            first, self._next_event = self._next_event, self._next_event + count_events(events)
            events = drop_seen_events(events, first, self._seen)
            events = add_event_ids(events, max(first, self._seen + 1)) if self._ids else events
        if events:
            await self._body(events)

    async def _body(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self, final: ReplyRecord) -> ReplyRecord:
        await self._send({"type": "http.response.body", "body": b""})
        return final


def _server_timing(final: ReplyRecord) -> bytes:
    """https://www.w3.org/TR/server-timing/ , milliseconds."""
    notes = dict(final.notes)
    found = [(name, notes[f"{name}-ms"]) for name in ("queue", "upstream") if f"{name}-ms" in notes]
    return ", ".join(f"{name};dur={value}" for name, value in found).encode()
