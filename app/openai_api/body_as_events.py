"""Turns a reply that is no event stream into events of its endpoint, for a client that asked for a
stream.

`body_as_events` is the only place that decides which events these are, whatever arrives: an error
in any form, a page of HTML, a whole reply, nothing.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from app.errors import error_body
from app.openai_api import anthropic
from app.openai_api.bodies import is_text
from app.openai_api.endpoints import Endpoint, parse_event
from app.openai_api.sse import DONE, as_event

MOST_SHOWN = 2000  # characters of an upstream's words in an error

_UPSTREAM_ERROR = "upstream_error"


def body_as_events(endpoint: Endpoint, status: int, content_type: str, body: bytes) -> bytes:
    """Return a body as valid server-sent events of the endpoint's stream.

    A success of the endpoint becomes its events, complete with their end. Everything else becomes
    one error event.
    """
    document = parse_event(body) if is_text(content_type) else {}
    if document.get("error"):
        return endpoint.error_event(_error_of(endpoint, status, document))
    if status >= 400 or not document or not endpoint.is_reply(document):
        words = body.decode(errors="replace").strip() if is_text(content_type) else content_type
        return endpoint.error_event(_upstream_error(endpoint, status, words))
    return b"".join(_events_of(endpoint, document))


def _error_of(endpoint: Endpoint, status: int, document: dict[str, Any]) -> bytes:
    """Return an error object as it is; where it is a text, as an object."""
    if isinstance(document["error"], dict):
        return orjson.dumps(document)
    return _upstream_error(endpoint, status, str(document["error"]))


def _upstream_error(endpoint: Endpoint, status: int, words: str) -> bytes:
    said = words[:MOST_SHOWN] or "an empty body"
    message = f"the model's server answered {status}, and no stream: {said}"
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    if endpoint.is_anthropic:
        error = {"type": anthropic.error_type(status if status >= 400 else 502), "message": message}
        return orjson.dumps({"type": "error", "error": error})
    return error_body(message, kind, None, _UPSTREAM_ERROR)


def _events_of(endpoint: Endpoint, document: dict[str, Any]) -> Iterator[bytes]:
    if endpoint.is_responses:
        yield from _response_events(document)
    elif endpoint.is_anthropic and endpoint.requires_end:
        yield from _message_events(document)
    else:
        yield _event(_as_chunk(document) if endpoint.ends_by_finish_reason else document)
    if endpoint.is_done_sent:
        yield DONE


def _event(document: dict[str, Any], *, named: bool = False) -> bytes:
    name = b"event: %b\n" % str(document["type"]).encode() if named else b""
    return name + as_event(orjson.dumps(document))


def _as_chunk(completion: dict[str, Any]) -> dict[str, Any]:
    """Return a whole chat completion as its only chunk; a text completion has the same form both
    ways.
    """
    choices = completion.get("choices")
    if completion.get("object") != "chat.completion" or not isinstance(choices, list):
        return completion
    return {
        **completion,
        "object": "chat.completion.chunk",
        "choices": [_as_delta(choice) for choice in choices],
    }


def _as_delta(choice: Any) -> Any:
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return choice
    delta = dict(choice["message"])
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [
            {"index": index, **call} for index, call in enumerate(calls) if isinstance(call, dict)
        ]
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}


def _response_events(response: dict[str, Any]) -> Iterator[bytes]:
    """https://platform.openai.com/docs/api-reference/responses-streaming"""
    begun = {**response, "status": "in_progress", "output": []}
    status = response.get("status")
    last = f"response.{status if status in ('failed', 'incomplete', 'cancelled') else 'completed'}"
    yield _event({"type": "response.created", "sequence_number": 0, "response": begun}, named=True)
    yield _event({"type": last, "sequence_number": 1, "response": response}, named=True)


def _message_events(message: dict[str, Any]) -> Iterator[bytes]:
    """https://docs.anthropic.com/en/api/messages-streaming"""
    ends = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    yield _event(
        {"type": "message_start", "message": {**message, "content": [], **dict.fromkeys(ends)}},
        named=True,
    )
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield from _block_events(index, block)
    yield _event(
        {
            "type": "message_delta",
            "delta": ends,
            "usage": message.get("usage") or {"output_tokens": 0},
        },
        named=True,
    )
    yield _event({"type": "message_stop"}, named=True)


def _block_events(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    """A text and a tool's input come as a delta; any other block is whole at its start."""
    delta: dict[str, Any] | None = None
    if block.get("type") == "text":
        delta, block = {"type": "text_delta", "text": block.get("text", "")}, {**block, "text": ""}
    elif block.get("type") == "tool_use":
        whole = orjson.dumps(block.get("input", {})).decode()
        delta, block = {"type": "input_json_delta", "partial_json": whole}, {**block, "input": {}}
    yield _event(
        {"type": "content_block_start", "index": index, "content_block": block}, named=True
    )
    if delta is not None:
        yield _event({"type": "content_block_delta", "index": index, "delta": delta}, named=True)
    yield _event({"type": "content_block_stop", "index": index}, named=True)
