"""The table of endpoints: which events end a stream, and which events are errors."""

import orjson
import pytest

from app.openai_api.endpoints import find_endpoint, find_last_error
from app.openai_api.sse import DONE_EVENT, encode_event

SENTINELS = (
    "data: [DONE]",
    "data: [DONE]\n\n",
    "[DONE]",
    '"finish_reason":"stop"',
    '{"type":"message_stop"}',
    '{"type": "response.completed"}',
    '{"error":{"message":"no"}}',
    "event: error\ndata: {}\n\n",
    '"usage":{"total_tokens":1}',
)


def event(**members: object) -> bytes:
    return encode_event(orjson.dumps(members))


def chat(index: int = 0, finish: str | None = None, **delta: object) -> bytes:
    return event(choices=[{"index": index, "delta": delta, "finish_reason": finish}])


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("/chat/completions", chat(finish="stop")),
        (
            "/chat/completions?a=b",
            chat(finish="stop") + event(choices=[], usage={"total_tokens": 1}),
        ),
        ("/chat/completions", chat(0, "stop") + chat(1, "length")),
        ("/chat/completions", event(model="x") + DONE_EVENT),
        ("/chat/completions", b"data:[DONE]\r\n\r\n"),
        ("/completions", event(choices=[{"index": 0, "text": "", "finish_reason": "length"}])),
        ("/messages", b"event: message_stop\n" + event(type="message_stop")),
        ("/responses", event(type="response.completed", response={})),
        ("/responses", event(type="response.incomplete", response={})),
        ("/audio/speech", event(type="speech.audio.done")),
        ("/audio/transcriptions", event(type="transcript.text.done", text="")),
        ("/images/edits", event(type="image_edit.completed")),
    ],
)
def test_the_last_event_of_an_endpoint_completes_its_stream(path, block):
    assert find_endpoint(path).is_complete(block)


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("/chat/completions", b""),
        ("/chat/completions", b": [DONE]\n\n"),
        ("/chat/completions", chat(content="x")),
        ("/chat/completions", chat(0, "stop") + chat(1, content="still running")),
        ("/chat/completions", event(type="response.completed")),
        ("/chat/completions", event(choices=[], metadata={"finish_reason": "stop"})),
        (
            "/chat/completions",
            b"data: no JSON\n\ndata: [1]\n\n" + event(choices=None) + event(choices=[None]),
        ),
        ("/messages", event(type="message_delta", delta={"stop_reason": "end_turn"})),
        (
            "/responses",
            event(type="response.output_text.done", item={"type": "response.completed"}),
        ),
        ("/embeddings", chat(finish="stop")),
    ],
)
def test_no_other_event_completes_it(path, block):
    assert not find_endpoint(path).is_complete(block)


@pytest.mark.parametrize("text", SENTINELS)
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/messages", "/responses"])
def test_text_that_looks_like_an_end_or_an_error_is_neither(path, text):
    block = chat(content=text) + event(type="content_block_delta", delta={"text": text})
    assert not find_endpoint(path).is_complete(block)
    assert find_last_error(block) is None


def test_an_error_is_an_event_as_the_sdk_of_the_endpoint_knows_it():
    body = b'{"error":{"message":"no"}}'
    assert find_endpoint("/chat/completions").encode_error_event(body) == b"data: " + body + b"\n\n"
    assert find_endpoint("/messages?beta=true").encode_error_event(body) == (
        b'event: error\ndata: {"type":"error","error":{"message":"no"}}\n\n'
    )
    for path in ("/chat/completions", "/responses", "/messages"):
        data = find_last_error(event(a=1) + find_endpoint(path).encode_error_event(body))
        assert orjson.loads(data or b"")["error"] == {"message": "no"}


@pytest.mark.parametrize(
    "block",
    [
        event(error={"message": "no"}),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "error"}], error={"code": 502}),
        event(type="error", message="no"),
        event(type="response.failed", response={}),
        b"event: error\ndata: plain text\n\n",
        b"event:error\r\ndata:{}\r\n\r\n" + chat(content="later"),
    ],
)
def test_errors_of_every_shape_are_found(block):
    assert find_last_error(block) is not None


@pytest.mark.parametrize(
    "block", [event(error=None, choices=[]), b": event: error\n\n", b"", b"{}", event(code="error")]
)
def test_what_is_no_error_is_not_found(block):
    assert find_last_error(block) is None
