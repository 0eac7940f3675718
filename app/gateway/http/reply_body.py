"""Assembles what a client gets of a reply's records: a whole body, or the events of a stream."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.errors import BadRequest
from app.gateway.http.asgi import RawHeaders, encode_header_pairs
from app.openai_api.bodies import is_text_content_type
from app.openai_api.body_as_events import convert_body_to_events
from app.openai_api.endpoints import find_endpoint
from app.protocol.records import ReplyRecord

_EVENT_NUMBER_PATTERN = re.compile(r"[0-9]{1,18}")


class ReplyBody(NamedTuple):
    """A whole response."""

    status: int
    head: tuple[tuple[str, str], ...]
    value: bytes


def assemble_body(parts: Sequence[ReplyRecord], *, stream: bool, path: str = "") -> ReplyBody:
    """What a client that waited got: the last writer's body, or all events of a stream."""
    if stream and is_event_stream(parts[0].head):
        return ReplyBody(parts[0].status or 200, parts[0].head, assemble_events(parts, path))
    last_head_index = max((index for index, part in enumerate(parts) if part.status), default=0)
    first = parts[last_head_index]
    return ReplyBody(
        first.status or 500, first.head, b"".join(part.value for part in parts[last_head_index:])
    )


def refuse_binary(head: Iterable[tuple[str, str]], public_id: str) -> None:
    """Raises BadRequest if a reply with this head is no text: an event holds nothing else."""
    content_type = dict(head).get("content-type", "")
    if not is_text_content_type(content_type):
        reason = f"the reply is {content_type}, which is no text and has no events"
        raise BadRequest(f"{reason}; GET /v1/requests/{public_id}/result has it", param="id")


def is_event_stream(head: Iterable[tuple[str, str]]) -> bool:
    """Return whether a reply with this head is a stream. Media types are case-insensitive (RFC 9110
    section 8.3.1).
    """
    return any(
        name == "content-type" and value.lower().startswith("text/event-stream")
        for name, value in head
    )


def assemble_events(parts: Iterable[ReplyRecord], path: str) -> bytes:
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


def parse_event_number(text: str, param: str) -> int:
    """The number of the last event that a client says it has; 0 if it says nothing. Raises
    BadRequest, naming `param`.
    """
    if text and not _EVENT_NUMBER_PATTERN.fullmatch(text):
        raise BadRequest(f"{param}: expected the number of an event, 0 or more", param=param)
    return int(text or 0)


def build_reply_headers(public_id: str, head: Iterable[tuple[str, str]]) -> RawHeaders:
    return [*encode_header_pairs(head), (b"x-request-id", public_id.encode())]
