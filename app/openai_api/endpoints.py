"""The inference endpoints that this gateway serves: one row per path, and the only place that knows
how their streams end.

A POST to any other path is refused, unless an entry of the model's configuration adds that path.

A stream is judged by its parsed events, never by a search in its bytes: a model may write any text,
`data: [DONE]` included.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from app.errors import GatewayError, InvalidBody
from app.openai_api import anthropic
from app.openai_api.bodies import parse_json
from app.openai_api.sse import (
    encode_event,
    extract_event_data,
    extract_event_field,
    has_data,
    split_events,
)

_DONE_DATA = b"[DONE]"
_EVENT_LINE = re.compile(rb"(?:^|[\r\n])event:")
_ERROR_EVENT_TYPES = ("error", "response.failed")
# that are parsed at a stream's end: it is told by the last few, and a burst has thousands
_MAX_PARSED_EVENTS = 64


@dataclass(slots=True)
class StreamEnd:
    """What the latest events of a stream say about how it ended. `error` is an event's data."""

    is_complete: bool = False
    is_done: bool = False  # `[DONE]` was among them
    # an error, or a choice whose `finish_reason` is "error", was among them
    is_failed: bool = False
    error: bytes | None = None
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: `path` lies below the API's root (`/v1`).

    `final_event_types`: values of an event's member `type` that complete the answer.
    `is_end_required`: a stream without a last event is incomplete. Elsewhere a clean end of the
    body suffices. `is_ended_by_finish_reason`: a choice with a `finish_reason` completes that
    choice. `is_done_sent`: `data: [DONE]` is the stream's last event. `is_anthropic`: errors have
    Anthropic's shape, https://docs.anthropic.com/en/api/errors . `is_responses`: errors are events
    of the Responses API. `is_usage_optional`: the stream has its usage only where
    `stream_options.include_usage` asks for it.
    """

    path: str
    final_event_types: frozenset[str] = frozenset()
    is_end_required: bool = False
    is_ended_by_finish_reason: bool = False
    is_done_sent: bool = False
    is_anthropic: bool = False
    is_responses: bool = False
    is_usage_optional: bool = False

    def is_complete(self, block: bytes) -> bool:
        """Return whether a block of whole events, the latest of a stream, completes the answer."""
        return self.read_stream_end(block).is_complete

    def read_stream_end(self, block: bytes) -> "StreamEnd":
        """Read what the latest events of a stream, a block of whole ones, say about its end.

        With several choices, each one that occurs among them has to be finished.
        """
        end = StreamEnd()
        seen_choices: set[str] = set()
        finished_choices: set[str] = set()
        for event in reversed(split_events(block)[-_MAX_PARSED_EVENTS:]):
            if not has_data(event):
                continue
            data = extract_event_data(event)
            if data == _DONE_DATA:
                end.is_done = end.is_complete = True
                continue
            document = parse_event_data(data)
            if end.error is None and _is_error_event(event, document):
                end.error, end.is_failed = data, True
            end.is_complete = end.is_complete or document.get("type") in self.final_event_types
            end.usage = end.usage or find_usage(document)
            for choice in iter_choices(document) if self.is_ended_by_finish_reason else ():
                index = str(choice.get("index"))
                seen_choices.add(index)
                if reason := choice.get("finish_reason"):
                    finished_choices.add(index)
                    end.is_failed = end.is_failed or reason == "error"
            if end.is_complete and (finished_choices or end.usage):
                break  # what comes before is text
        end.is_complete = end.is_complete or (
            bool(finished_choices) and seen_choices == finished_choices
        )
        return end

    def is_valid_reply(self, document: dict[str, Any]) -> bool:
        """Return whether a whole reply has the form of this endpoint's; True where streams need no
        last event.
        """
        if not self.is_end_required:
            return True
        if self.is_responses:
            return document.get("object") == "response"
        return (
            document.get("type") == "message"
            if self.is_anthropic
            else isinstance(document.get("choices"), list)
        )

    def encode_error_body(self, error: GatewayError) -> bytes:
        """Return one of our own errors as a body of the endpoint's API."""
        return anthropic.encode_error_body(error) if self.is_anthropic else error.encode_body()

    def encode_error_event(self, body: bytes) -> bytes:
        """Return an error's body as an event of this endpoint's stream.

        The Anthropic SDK takes only `event: error` for an error:
        https://docs.anthropic.com/en/api/messages-streaming#error-events . OpenAI's SDKs raise for
        a member `error`; other clients of the Responses API read the members beside it:
        https://platform.openai.com/docs/api-reference/responses-streaming/error
        """
        if self.is_responses:
            return b"event: error\n" + encode_event(_encode_responses_error(body))
        if not self.is_anthropic:
            return encode_event(body)
        typed_body = b'{"type":"error",' + body[1:] if body.startswith(b'{"error":') else body
        return b"event: error\n" + encode_event(typed_body)


_choices_endpoint = partial(
    Endpoint, is_end_required=True, is_ended_by_finish_reason=True, is_done_sent=True
)
_RESPONSE_END_TYPES = frozenset(
    f"response.{state}" for state in ("completed", "incomplete", "failed", "cancelled")
)

ENDPOINTS = {
    row.path: row
    for row in (
        _choices_endpoint("/chat/completions", is_usage_optional=True),
        _choices_endpoint("/completions", is_usage_optional=True),
        _choices_endpoint("/fim/completions"),
        Endpoint("/responses", _RESPONSE_END_TYPES, is_end_required=True, is_responses=True),
        Endpoint("/responses/compact"),
        Endpoint("/responses/input_tokens"),
        Endpoint("/messages", frozenset({"message_stop"}), is_end_required=True, is_anthropic=True),
        Endpoint("/messages/count_tokens", is_anthropic=True),
        Endpoint("/embeddings"),
        Endpoint("/audio/speech", frozenset({"speech.audio.done"})),
        Endpoint("/audio/transcriptions", frozenset({"transcript.text.done"})),
        Endpoint("/audio/translations"),
        Endpoint("/images/generations", frozenset({"image_generation.completed"})),
        Endpoint("/images/edits", frozenset({"image_edit.completed"})),
        Endpoint("/images/variations"),
        Endpoint("/moderations"),
        Endpoint("/rerank"),
        Endpoint("/score"),
        Endpoint("/classify"),
        Endpoint("/pooling"),
        Endpoint("/tokenize"),
        Endpoint("/detokenize"),
        Endpoint("/infill"),
        Endpoint("/ocr"),
        Endpoint("/apply-template"),
        Endpoint("/embed"),
    )
}


def _encode_responses_error(body: bytes) -> bytes:
    document = parse_event_data(body)
    error = document.get("error")
    if not isinstance(error, dict):
        return body
    members = {name: error.get(name) for name in ("code", "message", "param")}
    return orjson.dumps({"type": "error", "sequence_number": 0, **members, "error": error})


def find_endpoint(path: str) -> Endpoint:
    """Return the row of a path below the API's root, with or without a query; one of its own for
    any other path.
    """
    path_without_query = path.partition("?")[0]
    return ENDPOINTS.get(path_without_query) or Endpoint(path_without_query)


def parse_event_data(data: bytes) -> dict[str, Any]:
    """Return an event's data as a JSON object; an empty one where it is none, or has too many
    members.
    """
    try:
        document = parse_json(data)
    except (orjson.JSONDecodeError, InvalidBody):
        return {}
    return document if isinstance(document, dict) else {}


def iter_choices(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the choices of a chunk that are objects."""
    choices = event.get("choices")
    return (
        choice
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    )


def find_usage(document: dict[str, Any]) -> dict[str, Any]:
    """Return the usage that an event names: its own, or that of the object inside; empty without
    one.
    """
    for holder in (document, document.get("response"), document.get("message")):
        if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
            return usage
    return {}


def find_last_error(block: bytes) -> bytes | None:
    """Return the data of the last error among a block's whole events; None without one."""
    for event in reversed(split_events(block)):
        if has_data(event):
            data = extract_event_data(event)
            if _is_error_event(event, parse_event_data(data)):
                return data
    return None


def find_bare_error(block: bytes) -> bytes | None:
    """Return a JSON error among a stream's last bytes that no `data:` stands before; None without
    one.
    """
    for event in reversed(split_events(block)):
        if not has_data(event) and _is_error_event(b"", parse_event_data(event.strip())):
            return event.strip()
    return None


def _is_error_event(event: bytes, document: dict[str, Any]) -> bool:
    if document.get("error") or document.get("type") in _ERROR_EVENT_TYPES:
        return True
    return (
        _EVENT_LINE.search(event) is not None and extract_event_field(event, b"event") == b"error"
    )


def is_done_event(event: bytes) -> bool:
    """Return whether an event's whole data is `[DONE]`."""
    return extract_event_data(event) == _DONE_DATA
