"""Reading streamed replies: whole, or cut anywhere."""

import pytest

from bench.sse import EventCounter, Reply, parse_stream, parse_whole
from bench.upstream import all_at_once, pieces, text_of, whole_reply

TOKENS = 5
EXTRA = 3  # role, finish, [DONE]


def sse_body(*, usage: bool = False) -> bytes:
    """The events of a simulated reply without HTTP's chunks."""
    parts = b"".join(pieces(TOKENS, usage)).split(b"\r\n")
    return b"".join(part for part in parts if part.startswith(b"data:"))


def test_the_events_of_a_stream_are_counted() -> None:
    counter = EventCounter()
    assert counter.feed(sse_body()) == TOKENS + EXTRA
    assert counter.events == TOKENS + EXTRA
    assert counter.done


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_stream_that_is_cut_in_two_anywhere_has_the_same_events(line_end: bytes) -> None:
    body = sse_body().replace(b"\n", line_end)
    for place in range(len(body) + 1):
        counter = EventCounter()
        begun = counter.feed(body[:place]) + counter.feed(body[place:])
        assert (begun, counter.events, counter.done) == (TOKENS + EXTRA, TOKENS + EXTRA, True), (
            place
        )


def test_a_stream_that_comes_byte_by_byte_has_the_same_events() -> None:
    counter = EventCounter()
    body = sse_body()
    assert (
        sum(counter.feed(body[place : place + 1]) for place in range(len(body))) == TOKENS + EXTRA
    )
    assert counter.done


def test_what_only_looks_like_an_event_is_none() -> None:
    counter = EventCounter()
    assert counter.feed(b': keep-alive\n\ndata: {"content": "data: \\ndata: x"}\n\n') == 1
    assert not counter.done


def test_a_parsed_stream_has_its_text_and_its_tokens() -> None:
    assert parse_stream(sse_body()) == Reply(text_of(TOKENS), TOKENS, TOKENS + EXTRA)


def test_a_usage_event_is_no_token() -> None:
    assert parse_stream(sse_body(usage=True)) == Reply(text_of(TOKENS), TOKENS, TOKENS + EXTRA + 1)


def test_reasoning_and_tool_calls_are_tokens_too() -> None:
    deltas = [
        b'{"reasoning_content": "hm"}',
        b'{"tool_calls": [{"index": 0}]}',
        b'{"content": "x"}',
        b'{"content": ""}',
    ]
    body = b"".join(b'data: {"choices": [{"delta": %b}]}\n\n' % delta for delta in deltas)
    assert parse_stream(body) == Reply("x", 3, 4)


def test_a_whole_reply_has_its_text_and_the_tokens_of_its_usage() -> None:
    _, _, body = whole_reply(TOKENS).partition(b"\r\n\r\n")
    assert parse_whole(body) == Reply(text_of(TOKENS), TOKENS, 0)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}'])
def test_what_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_whole(body)


def test_a_stream_without_delays_is_the_same_pieces_in_one() -> None:
    head, _, body = all_at_once(TOKENS, False).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"".join(pieces(TOKENS, False))
