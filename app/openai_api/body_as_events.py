"""Turns a reply that is no event stream into events of its endpoint, for a client that asked for a
stream.

`convert_body_to_events` is the only place that decides which events these are, whatever arrives: an
error in any form, a page of HTML, a whole reply, nothing.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from app.errors import encode_error_body
from app.openai_api import anthropic
from app.openai_api.bodies import is_text_content_type
from app.openai_api.endpoints import Endpoint, parse_event_data
from app.openai_api.sse import DONE_EVENT, encode_event

MAX_UPSTREAM_MESSAGE_CHARS = 2000  # characters of an upstream's words in an error

_UPSTREAM_ERROR = "upstream_error"


def convert_body_to_events(
    endpoint: Endpoint, status: int, content_type: str, body: bytes
) -> bytes:
    """Return a body as valid server-sent events of the endpoint's stream.

    A success of the endpoint becomes its events, complete with their end. Everything else becomes
    one error event.
    """
    document = parse_event_data(body) if is_text_content_type(content_type) else {}
    if document.get("error"):
        return endpoint.encode_error_event(_encode_error(endpoint, status, document))
    if status >= 400 or not document or not endpoint.is_valid_reply(document):
        upstream_text = (
            body.decode(errors="replace").strip()
            if is_text_content_type(content_type)
            else content_type
        )
        return endpoint.encode_error_event(_encode_upstream_error(endpoint, status, upstream_text))
    return b"".join(_encode_events(endpoint, document))


def _encode_error(endpoint: Endpoint, status: int, document: dict[str, Any]) -> bytes:
    """Return an error object as it is; where it is a text, as an object."""
    if isinstance(document["error"], dict):
        return orjson.dumps(document)
    return _encode_upstream_error(endpoint, status, str(document["error"]))


def _encode_upstream_error(endpoint: Endpoint, status: int, upstream_text: str) -> bytes:
    excerpt = upstream_text[:MAX_UPSTREAM_MESSAGE_CHARS] or "an empty body"
    message = f"the model's server answered {status}, and no stream: {excerpt}"
    openai_type = "invalid_request_error" if 400 <= status < 500 else "server_error"
    if endpoint.is_anthropic:
        error = {"type": anthropic.error_type(status if status >= 400 else 502), "message": message}
        return orjson.dumps({"type": "error", "error": error})
    return encode_error_body(message, openai_type, None, _UPSTREAM_ERROR)


def _encode_events(endpoint: Endpoint, document: dict[str, Any]) -> Iterator[bytes]:
    if endpoint.is_responses:
        yield from _encode_response_events(document)
    elif endpoint.is_anthropic and endpoint.is_end_required:
        yield from _encode_message_events(document)
    else:
        yield _encode_event(
            _convert_to_chunk(document) if endpoint.is_ended_by_finish_reason else document
        )
    if endpoint.is_done_sent:
        yield DONE_EVENT


def _encode_event(document: dict[str, Any], *, is_named: bool = False) -> bytes:
    name = b"event: %b\n" % str(document["type"]).encode() if is_named else b""
    return name + encode_event(orjson.dumps(document))


def _convert_to_chunk(completion: dict[str, Any]) -> dict[str, Any]:
    """Return a whole chat completion as its only chunk; a text completion has the same form both
    ways.
    """
    choices = completion.get("choices")
    if completion.get("object") != "chat.completion" or not isinstance(choices, list):
        return completion
    return {
        **completion,
        "object": "chat.completion.chunk",
        "choices": [_convert_to_delta(choice) for choice in choices],
    }


def _convert_to_delta(choice: Any) -> Any:
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return choice
    delta = dict(choice["message"])
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [
            {"index": index, **call} for index, call in enumerate(calls) if isinstance(call, dict)
        ]
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}


def _encode_response_events(response: dict[str, Any]) -> Iterator[bytes]:
    """https://platform.openai.com/docs/api-reference/responses-streaming"""
    created_response = {**response, "status": "in_progress", "output": []}
    status = response.get("status")
    final_type = (
        f"response.{status if status in ('failed', 'incomplete', 'cancelled') else 'completed'}"
    )
    yield _encode_event(
        {"type": "response.created", "sequence_number": 0, "response": created_response},
        is_named=True,
    )
    yield _encode_event(
        {"type": final_type, "sequence_number": 1, "response": response}, is_named=True
    )


def _encode_message_events(message: dict[str, Any]) -> Iterator[bytes]:
    """https://docs.anthropic.com/en/api/messages-streaming"""
    stop_fields = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    yield _encode_event(
        {
            "type": "message_start",
            "message": {**message, "content": [], **dict.fromkeys(stop_fields)},
        },
        is_named=True,
    )
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield from _encode_block_events(index, block)
    yield _encode_event(
        {
            "type": "message_delta",
            "delta": stop_fields,
            "usage": message.get("usage") or {"output_tokens": 0},
        },
        is_named=True,
    )
    yield _encode_event({"type": "message_stop"}, is_named=True)


def _encode_block_events(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    """A text and a tool's input come as a delta; any other block is whole at its start."""
    delta: dict[str, Any] | None = None
    if block.get("type") == "text":
        delta, block = {"type": "text_delta", "text": block.get("text", "")}, {**block, "text": ""}
    elif block.get("type") == "tool_use":
        input_json = orjson.dumps(block.get("input", {})).decode()
        delta, block = (
            {"type": "input_json_delta", "partial_json": input_json},
            {**block, "input": {}},
        )
    yield _encode_event(
        {"type": "content_block_start", "index": index, "content_block": block}, is_named=True
    )
    if delta is not None:
        yield _encode_event(
            {"type": "content_block_delta", "index": index, "delta": delta}, is_named=True
        )
    yield _encode_event({"type": "content_block_stop", "index": index}, is_named=True)
