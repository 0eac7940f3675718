"""The inference endpoints that this gateway serves: one row per path, and the only place that knows how their streams end.

A POST to any other path is refused, unless an entry of the model's configuration adds that path.

A stream is judged by its parsed events, never by a search in its bytes: a model may write any text, `data: [DONE]` included.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from app.contracts import anthropic
from app.contracts.sse import as_event, data_of, field_of, has_data, split_events
from app.errors import GatewayError

_DONE_DATA = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: `path` lies below the API's root (`/v1`).

    `last_types`: values of an event's member `type` that complete the answer.
    `requires_end`: a stream without a last event is incomplete. Elsewhere a clean end of the body suffices.
    `ends_by_finish_reason`: a choice with a `finish_reason` completes that choice.
    `is_done_sent`: `data: [DONE]` is the stream's last event.
    `is_anthropic`: errors have Anthropic's shape, https://docs.anthropic.com/en/api/errors .
    `is_usage_optional`: the stream has its usage only where `stream_options.include_usage` asks for it.
    """

    path: str
    last_types: frozenset[str] = frozenset()
    requires_end: bool = False
    ends_by_finish_reason: bool = False
    is_done_sent: bool = False
    is_anthropic: bool = False
    is_usage_optional: bool = False

    def is_complete(self, block: bytes) -> bool:
        """Return whether a block of whole events, the latest of a stream, brings the answer to its end.

        With several choices, each one that occurs in the block has to be finished.
        """
        seen: set[Any] = set()
        finished: set[Any] = set()
        for data in _data_in(block):
            if data == _DONE_DATA:
                return True
            event = parse_event(data)
            if event.get("type") in self.last_types:
                return True
            if self.ends_by_finish_reason:
                for choice in choices_of(event):
                    seen.add(choice.get("index"))
                    if choice.get("finish_reason"):
                        finished.add(choice.get("index"))
        return bool(finished) and seen == finished

    def error_body(self, error: GatewayError) -> bytes:
        """Return one of our own errors as a body of the endpoint's API."""
        return anthropic.error_body(error) if self.is_anthropic else error.body()

    def error_event(self, body: bytes) -> bytes:
        """Return an error's body as an event of this endpoint's stream.

        The Anthropic SDK takes only `event: error` for an error:
        https://docs.anthropic.com/en/api/messages-streaming#error-events
        """
        if not self.is_anthropic:
            return as_event(body)
        typed = b'{"type":"error",' + body[1:] if body.startswith(b'{"error":') else body
        return b"event: error\n" + as_event(typed)


_of_choices = partial(Endpoint, requires_end=True, ends_by_finish_reason=True, is_done_sent=True)
_RESPONSE_ENDS = frozenset(f"response.{state}" for state in ("completed", "incomplete", "failed", "cancelled"))

ENDPOINTS = {
    row.path: row
    for row in (
        _of_choices("/chat/completions", is_usage_optional=True),
        _of_choices("/completions", is_usage_optional=True),
        _of_choices("/fim/completions"),
        Endpoint("/responses", _RESPONSE_ENDS, requires_end=True),
        Endpoint("/responses/compact"),
        Endpoint("/responses/input_tokens"),
        Endpoint("/messages", frozenset({"message_stop"}), requires_end=True, is_anthropic=True),
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


def endpoint_of(path: str) -> Endpoint:
    """Return the row of a path below the API's root, with or without a query; one of its own for any other path."""
    bare = path.partition("?")[0]
    return ENDPOINTS.get(bare) or Endpoint(bare)


def parse_event(data: bytes) -> dict[str, Any]:
    """Return an event's data as a JSON object; an empty one where it is none."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def choices_of(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the choices of a chunk that are objects."""
    choices = event.get("choices")
    return (choice for choice in (choices if isinstance(choices, list) else ()) if isinstance(choice, dict))


def error_in(block: bytes) -> bytes | None:
    """Return the data of the last error among a block's whole events; None without one."""
    events = [event for event in split_events(block) if has_data(event)]
    return next((data_of(event) for event in reversed(events) if _is_error(event)), None)


def _is_error(event: bytes) -> bool:
    if field_of(event, b"event") == b"error":
        return True
    document = parse_event(data_of(event))
    return bool(document.get("error")) or document.get("type") in ("error", "response.failed")


def ends_stream(event: bytes) -> bool:
    """Return whether an event's whole data is `[DONE]`."""
    return data_of(event) == _DONE_DATA


def _data_in(block: bytes) -> Iterable[bytes]:
    return (data_of(event) for event in split_events(block) if has_data(event))
