"""Replies of several requests in one record: each reader gets of it what it wants, and nothing of a
record that is not whole.
"""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UndecodableRecord
from app.protocol.records import ReplyRecord
from app.protocol.reply_batch import decode_replies, encode_batch, record_ids
from app.protocol.reply_state import DATA, FINAL, OUTCOMES
from tests.unit.protocol.test_records import IDS, NUMBERS, PAIRS, TEXT

VALUES = st.binary(max_size=50)
HEADS = st.just({}) | st.fixed_dictionaries({"status": st.integers(100, 599), "head": PAIRS})
ENDS = st.just({"kind": DATA}) | st.fixed_dictionaries(
    {
        "kind": st.just(FINAL),
        "outcome": st.sampled_from(sorted(OUTCOMES)),
        "code": TEXT,
        "notes": PAIRS,
    }
)
PARTS = st.builds(
    lambda id_, seq, event, value, head, end: ReplyRecord(
        id=id_, owner="w", seq=seq, event=event, value=value, **head, **end
    ),
    IDS, NUMBERS, NUMBERS, VALUES, HEADS, ENDS,
)  # fmt: skip
JOINED = st.lists(PARTS, min_size=1, max_size=6, unique_by=lambda reply: reply.id)

ONE, TWO = (
    ReplyRecord("ab" * 16, "w", DATA, 3, b"data: x\n\n", 4),
    ReplyRecord("cd" * 16, "w", FINAL, 0, b"{}", status=200, outcome="completed"),
)


@given(JOINED, st.data())
def test_what_was_joined_is_told_to_whoever_wants_it(parts, data):
    headers, value = encode_batch(parts)
    wanted = data.draw(st.sets(st.sampled_from([part.id for part in parts])))
    assert list(record_ids(headers)) == [part.id.encode() for part in parts]
    assert decode_replies(headers, value, {id_.encode() for id_ in wanted}) == [
        part for part in parts if part.id in wanted
    ]


@given(PARTS)
def test_a_record_of_one_reply_is_told_the_same_way(part):
    headers = part.encode_headers()
    assert list(record_ids(headers)) == [part.id.encode()]
    assert list(decode_replies(headers, part.value, {part.id.encode()})) == [part]
    assert not decode_replies(headers, part.value, ())


def test_a_person_can_read_it():
    headers, value = encode_batch([ONE, TWO])
    assert dict(headers) == {
        "v": b"2",
        "owner": b"w",
        "parts": b"%b 3 4 9\n%b 0 1 2 " % (b"ab" * 16, b"cd" * 16)
        + b'{"status":200,"head":[],"outcome":"completed","code":"","notes":[]}',
    }
    assert value == b"data: x\n\n{}"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("v", b"3", "version b'3'"),
        ("v", None, "version None"),
        ("owner", None, "owner"),
        ("owner", b"\xff", "utf-8"),
        ("parts", b"", "not enough values"),
        ("parts", b"ab 3 4", "not enough values"),
        ("parts", b"ab 3 4 x", "invalid literal"),
        ("parts", b"ab 3 4 9", "9 bytes in 11"),
        ("parts", b"ab 3 4 9\ncd 0 1 5", "14 bytes in 11"),
        ("parts", b"ab 3 4 11 {", "unexpected"),
        ("parts", b'ab 3 4 11 {"status":"x","head":[]}', "invalid literal"),
        ("parts", b'ab 3 4 11 {"status":200,"head":[[1,2,3]]}', "too many values"),
        ("parts", b'ab 3 4 11 {"status":200}', "head"),
        ("parts", b'ab 3 4 11 {"outcome":"great","code":"","notes":[]}', "great"),
    ],
)
def test_what_is_garbled_is_refused_by_name(name, text, why):
    headers, value = encode_batch([ONE, TWO])
    garbled = [pair for pair in headers if pair[0] != name] + (
        [(name, text)] if text is not None else []
    )
    with pytest.raises(UndecodableRecord, match=why):
        decode_replies(garbled, value, (b"ab", b"cd"))


@given(st.binary(max_size=60), VALUES)
def test_anything_at_all_is_read_or_refused(text, value):
    headers = [("v", b"2"), ("owner", b"w"), ("parts", text)]
    with suppress(UndecodableRecord):
        decode_replies(headers, value, set(record_ids(headers)))


def test_a_record_with_nothing_of_ours_says_nothing():
    assert not list(decode_replies(None, None, (b"",)))
    assert not list(decode_replies([("v", b"1")], b"x", (b"",)))
