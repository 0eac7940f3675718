"""Server-sent events as bytes: cut anywhere they are the same events, and no byte is lost or
added.
"""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import ReplyTooLarge
from app.openai_api import sse
from app.openai_api.sse import (
    DONE_EVENT,
    EventSplitter,
    _end_of_events,
    add_event_ids,
    count_events,
    drop_seen_events,
    extract_event_data,
    has_data,
    is_event_stream,
    split_events,
)

ENDS = [b"\n", b"\r\n", b"\r"]
STREAM = [
    [b'data: {"a": 1}'],
    [b": a comment"],
    [b"event: note", b"data: one", b"data:two", b"data:", b"data:  three"],
    [b"event: bare"],
    [b"data: \xe2\x82\xac and data: in the text"],
    [b"id: 7", b"retry: 10", b"data"],
    [b"data: [DONE]"],
]


def parsed(stream: bytes) -> list[tuple[bytes, bytes]]:
    """What a client makes of a stream by the specification: (last event id, data) of each event."""
    events: list[tuple[bytes, bytes]] = []
    data: list[bytes] = []
    event_id = b""
    for line in re.split(rb"\r\n|\n|\r", stream)[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            if data:
                events.append((event_id, b"\n".join(data)))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"id":
            event_id = value.removeprefix(b" ")
    return events


def joined(events: list[list[bytes]], end: bytes) -> bytes:
    return b"".join(line + end for lines in events for line in [*lines, b""])


def fed(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """The blocks that come out of a splitter, and what is left."""
    splitter = EventSplitter()
    blocks = [splitter.feed(piece) for piece in pieces]
    return blocks, splitter.flush()


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places)]


# Anything that a stream can be made of, with line ends of all kinds side by side.
RAW = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:b",
            b"data",
            b"datax: c",
            b": d",
            b"id: 1",
            b"\n",
            b"\r\n",
            b"\r",
            b"\n\n",
            b"x",
        ]
    ),
    max_size=25,
).map(b"".join)
STREAMS = RAW | st.builds(
    joined, st.lists(st.sampled_from(STREAM), max_size=8), st.sampled_from(ENDS)
)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize("end", ENDS)
def test_cut_at_every_byte_the_events_are_the_same(end):
    stream = joined(STREAM, end)
    whole = parsed(stream)
    assert [data for _, data in whole] == [
        b'{"a": 1}',
        b"one\ntwo\n\n three",
        b"\xe2\x82\xac and data: in the text",
        b"",
        b"[DONE]",
    ]
    for cut in range(len(stream) + 1):
        blocks, rest = fed([stream[:cut], stream[cut:]])
        assert b"".join(blocks) + rest == stream
        assert split_events(b"".join(blocks)) + ([rest] if rest else []) == split_events(stream)
    blocks, rest = fed([bytes([byte]) for byte in stream])
    events = [event for block in blocks for event in split_events(block)] + ([rest] if rest else [])
    assert events == split_events(stream) == [joined([lines], end) for lines in STREAM]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_event_comes_out_with_the_last_byte_of_its_blank_line(end):
    splitter = EventSplitter()
    event = b"data: a" + end + end
    assert [splitter.feed(bytes([byte])) for byte in event] == [b""] * (len(event) - 1) + [event]


def test_a_carriage_return_at_the_cut_may_be_half_of_a_line_end():
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\r\n\r") == b""
    assert splitter.feed(b"\ndata: b\r\r") == b"data: a\r\n\r\n"
    assert splitter.feed(b"data: c") == b"data: b\r\r"
    assert splitter.flush() == b"data: c"
    assert splitter.flush() == b""


@given(STREAMS, CUTS)
@example(b"data: a\r\r\ndata: b\n\n", [9])
@example(b"data: a\n\n\ndata: b\n\n\n", [9, 10])
def test_any_stream_cut_anywhere_gives_whole_events_and_all_bytes(stream, cuts):
    blocks, rest = fed(pieces_of(stream, cuts))
    assert b"".join(blocks) + rest == stream
    assert [data for block in blocks for _, data in parsed(block)] + [
        d for _, d in parsed(rest)
    ] == [d for _, d in parsed(stream)]
    assert len(parsed(rest)) <= 1, "no more than what a last carriage return leaves open waits"


@given(STREAMS)
@example(b"data: a\n\n\n")
@example(b"\n\ndata: a\n\n")
@example(b"\ndata: a\n\n")
@example(b"data: a\r\r\ndata: b\r\n\r\n")
def test_the_events_of_a_block_are_the_block_and_each_is_one_event(block):
    events = split_events(block)
    assert b"".join(events) == block
    assert all(events), "no empty event"
    assert all(len(parsed(event)) <= 1 for event in events)
    assert [data for event in events for _, data in parsed(event)] == [
        data for _, data in parsed(block)
    ]


def whole_events(stream: bytes) -> bytes:
    return b"".join(fed([stream])[0])


@given(STREAMS.map(whole_events))
def test_events_with_data_are_those_a_client_sees(block):
    assert count_events(block) == len(parsed(block))
    assert [extract_event_data(event) for event in split_events(block) if has_data(event)] == [
        data for _, data in parsed(block)
    ]


@given(STREAMS.map(whole_events), st.integers(0, 1000))
@example(b"\ndata: a\n\n", 1)
@example(b"data: a\n\n\ndata: b\n\n", 1)
@example(b"data: a\r\r\ndata: b\r\r", 1)
def test_ids_count_the_data_events_and_change_none_of_them(block, first):
    with_them = add_event_ids(block, first)
    if b"id: " not in block:
        assert with_them.count(b"id: ") == count_events(block)
        numbered = [
            (b"%d" % (first + place), data) for place, (_, data) in enumerate(parsed(block))
        ]
        assert parsed(with_them) == numbered
        assert not re.search(rb"id: \d+\n[\r\n]", with_them), (
            "an id that stands alone is an event to some clients"
        )
    assert [data for _, data in parsed(with_them)] == [data for _, data in parsed(block)]
    assert all(has_data(event) for event in split_events(with_them)[:-1]), (
        "each blank line ends an event with data"
    )
    assert not re.search(rb"(?>\r\n|\n|\r){3}", with_them), (
        "a further blank line is an empty event to the openai SDK"
    )


@given(STREAMS.map(whole_events), st.integers(1, 5), st.integers(0, 12))
def test_what_a_client_has_seen_is_left_out_and_the_rest_is_whole(block, first, seen):
    left = [data for _, data in parsed(drop_seen_events(block, first, seen))]
    assert left == [data for number, (_, data) in enumerate(parsed(block), first) if number > seen]
    if seen < first:
        assert drop_seen_events(block, first, seen) == block


@given(STREAMS.map(whole_events), st.integers(0, 12))
def test_a_block_in_two_parts_numbers_its_events_as_one(block, place):
    events = split_events(block)
    head, tail = b"".join(events[:place]), b"".join(events[place:])
    assert add_event_ids(head, 1) + add_event_ids(tail, 1 + count_events(head)) == add_event_ids(
        block, 1
    )


def test_done_is_an_event_like_any_other():
    assert split_events(DONE_EVENT) == [DONE_EVENT]
    assert (count_events(DONE_EVENT), extract_event_data(DONE_EVENT)) == (1, b"[DONE]")


@pytest.mark.parametrize(
    "block",
    [b"", b": ping\n\n", b"event: x\n\n", b"database: x\n\n", b"x-data: y\n\n", b" data: y\n\n"],
)
def test_what_has_no_data_does_not_count(block):
    assert count_events(block) == 0


@given(STREAMS, CUTS)
def test_a_splitter_gives_each_event_as_soon_as_it_is_whole(stream, cuts):
    splitter, held = EventSplitter(), b""
    for piece in pieces_of(stream, cuts):
        held += piece
        block = splitter.feed(piece)
        assert held.startswith(block)
        held = held[len(block) :]
        whole = [event for event in split_events(held) if event.endswith((b"\n\n", b"\r\n\r\n"))]
        assert not whole, "a whole event waits"
    assert splitter.flush() == held


@pytest.mark.parametrize("size", [10_000, 20_000])
def test_an_event_in_many_pieces_is_searched_once(size, monkeypatch):
    searched = 0

    def counted(buffer: bytes) -> int:
        nonlocal searched
        searched += len(buffer)
        return _end_of_events(buffer)

    monkeypatch.setattr(sse, "_end_of_events", counted)
    splitter = EventSplitter()
    for _ in range(size):
        assert not splitter.feed(b"x")
    assert searched <= 4 * size


def test_an_event_larger_than_allowed_is_refused_before_it_is_whole():
    splitter = EventSplitter(max_event_bytes=100)
    splitter.feed(b"data: " + b"x" * 94)
    with pytest.raises(ReplyTooLarge):
        splitter.feed(b"x")
    assert EventSplitter(max_event_bytes=100).feed(b"data: x\n\n" * 100) == b"data: x\n\n" * 100


@pytest.mark.parametrize(
    ("head", "found"),
    [
        *((mark + b" x", True) for mark in (b"data:", b"event:", b"id:", b"retry:", b":")),
        *(
            (mark, None)
            for mark in (b"", b"d", b"dat", b"event", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"re")
        ),
        *((mark, False) for mark in (b"{", b"database", b"<", b"i ", b"dat a", b" data:")),
    ],
)
def test_the_first_bytes_tell_an_event_stream(head, found):
    assert is_event_stream(head) is found
