"""Records: there and back, and whatever else lies on the log is refused by name, never by a
crash.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import UndecodableRecord
from app.protocol.records import (
    SUPPORTED_VERSIONS,
    VERSION,
    ControlRecord,
    ReplyRecord,
    RequestRecord,
    decode_headers,
    record_id,
)
from app.protocol.reply_state import CLAIM, DATA, FINAL, OUTCOMES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple)
NUMBERS = st.integers(0, 2**53)
REQUESTS = st.builds(
    RequestRecord,
    id=IDS,
    model=TEXT,
    path=TEXT,
    body=st.binary(max_size=50),
    stream=st.booleans(),
    reply_partition=NUMBERS,
    reply_offset=NUMBERS,
    created=NUMBERS,
    deadline=NUMBERS,
    tenant=TEXT,
    hops=TEXT,
    head=PAIRS,
    traceparent=TEXT,
    maybe_duplicate=st.booleans(),
)
COMMON = {
    "id": IDS,
    "owner": TEXT,
    "seq": NUMBERS,
    "event": NUMBERS,
    "value": st.binary(max_size=50),
}
FIRST = {"status": st.integers(100, 599), "head": PAIRS}
REPLIES = (
    st.builds(ReplyRecord, kind=st.just(DATA), **COMMON)
    | st.builds(ReplyRecord, kind=st.just(DATA), **COMMON, **FIRST)
    | st.builds(ReplyRecord, kind=st.just(CLAIM), supersedes=TEXT, **COMMON)
    | st.builds(
        ReplyRecord,
        kind=st.just(FINAL),
        outcome=st.sampled_from(sorted(OUTCOMES)),
        code=TEXT,
        by_gateway=st.booleans(),
        notes=PAIRS,
        **COMMON,
        **FIRST,
    )
)
CONTROLS = st.builds(
    ControlRecord,
    id=IDS,
    kind=st.sampled_from([ControlRecord.CANCEL, ControlRecord.CLAIM]),
    owner=TEXT,
    supersedes=TEXT,
)

REQUEST = RequestRecord("ab" * 16, "m", "/chat/completions", b"{}", True, 1, 2, 3, 4)
REPLY = ReplyRecord("ab" * 16, "w", DATA, 0, b"data: x\n\n", status=200)
CONTROL = ControlRecord("ab" * 16, ControlRecord.CANCEL)


def without(headers, name):
    return [pair for pair in headers if pair[0] != name]


def replaced(headers, name, value):
    return [*without(headers, name), (name, value)]


@given(REQUESTS)
def test_a_request_goes_there_and_back(request_):
    assert RequestRecord.decode(request_.encode_headers(), request_.body) == request_


@given(REPLIES)
def test_a_reply_goes_there_and_back(reply):
    assert ReplyRecord.decode(reply.encode_headers(), reply.value) == reply


@given(CONTROLS)
def test_a_control_goes_there_and_back(control):
    assert ControlRecord.decode(control.encode_headers()) == control


@given(REQUESTS | REPLIES | CONTROLS)
def test_headers_are_utf8_and_the_id_is_found_without_decoding(record):
    headers = record.encode_headers()
    assert record_id(headers) == record.id.encode()
    assert decode_headers(headers)["id"] == record.id
    assert len({name for name, _ in headers}) == len(headers), "each header once"


def test_unknown_headers_are_ignored():
    more = [("from-the-future", b"1"), ("x", b"")]
    assert RequestRecord.decode(REQUEST.encode_headers() + more, REQUEST.body) == REQUEST
    assert ReplyRecord.decode(REPLY.encode_headers() + more, REPLY.value) == REPLY
    assert ControlRecord.decode(CONTROL.encode_headers() + more) == CONTROL


@pytest.mark.parametrize(
    "name",
    ["id", "model", "path", "stream", "reply-partition", "reply-offset", "created", "deadline"],
)
def test_a_request_without_one_of_its_headers_is_refused_by_name(name):
    with pytest.raises(UndecodableRecord, match=f"'{name}' is missing"):
        RequestRecord.decode(without(REQUEST.encode_headers(), name), b"")


@pytest.mark.parametrize("name", ["id", "owner", "kind", "seq", "event"])
def test_a_reply_without_one_of_its_headers_is_refused_by_name(name):
    with pytest.raises(UndecodableRecord, match=f"'{name}' is missing"):
        ReplyRecord.decode(without(REPLY.encode_headers(), name), b"")


@pytest.mark.parametrize("name", ["id", "kind"])
def test_a_control_without_one_of_its_headers_is_refused_by_name(name):
    with pytest.raises(UndecodableRecord, match=f"'{name}' is missing"):
        ControlRecord.decode(without(CONTROL.encode_headers(), name))


@pytest.mark.parametrize("headers", [None, [], [("v", b"2")], [("v", b"")], [("V", VERSION)]])
def test_a_version_that_we_do_not_read_is_refused(headers):
    for decode in (
        lambda: RequestRecord.decode(headers, b""),
        lambda: ReplyRecord.decode(headers, b""),
        lambda: ControlRecord.decode(headers),
    ):
        with pytest.raises(UndecodableRecord, match="version"):
            decode()


def test_what_we_write_is_among_what_we_read():
    assert int(VERSION) in SUPPORTED_VERSIONS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", b"not hexadecimal"),
        ("reply-partition", b"one"),
        ("reply-offset", b""),
        ("deadline", b"1.5"),
        ("model", b"\xff"),
        ("model", None),
        ("head", b"{"),
        ("head", b"5"),
        ("head", b"[1]"),
        ("head", b'[["a"]]'),
        ("head", b"null"),
    ],
)
def test_a_request_with_a_header_of_the_wrong_form_is_refused(name, value):
    with pytest.raises(UndecodableRecord):
        RequestRecord.decode(replaced(REQUEST.encode_headers(), name, value), b"")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", b"other"),
        ("kind", FINAL.encode()),  # a final record has an outcome
        ("outcome", b"completed"),  # and no other has one
        ("seq", b"x"),
        ("event", b""),
        ("status", b"OK"),
        ("head", b"5"),
        ("notes", b"[[1]]"),
        ("owner", b"\xff"),
    ],
)
def test_a_reply_with_a_header_of_the_wrong_form_is_refused(name, value):
    with pytest.raises(UndecodableRecord):
        ReplyRecord.decode(replaced(REPLY.encode_headers(), name, value), b"")


def test_a_final_record_with_an_unknown_outcome_is_refused():
    headers = replaced(
        replaced(REPLY.encode_headers(), "kind", FINAL.encode()), "outcome", b"exploded"
    )
    with pytest.raises(UndecodableRecord, match="exploded"):
        ReplyRecord.decode(headers, b"")


NAMES = st.sampled_from(
    [name for name, _ in REQUEST.encode_headers() + REPLY.encode_headers()]
    + ["head", "notes", "outcome", "supersedes"]
)
VALUES = (
    st.none()
    | st.binary(max_size=8)
    | st.sampled_from([b"1", b"data", b"final", b"completed", b"[]", b"[[1,2]]", b"{}", b"5"])
)


@given(
    st.none() | st.lists(st.tuples(NAMES, VALUES), max_size=3), st.none() | st.binary(max_size=8)
)
@example([("head", b"5")], None)
def test_no_record_makes_decoding_fail_otherwise(changes, value):
    for record, decode in ((REQUEST, RequestRecord.decode), (REPLY, ReplyRecord.decode)):
        headers = record.encode_headers()
        for name, changed in changes or ():
            headers = replaced(headers, name, changed)
        try:
            decoded = decode(headers, value)
        except UndecodableRecord:
            continue
        assert decode(decoded.encode_headers(), value).id == decoded.id


def test_a_record_without_headers_has_no_id():
    assert record_id(None) == record_id([]) == record_id([("v", b"1")]) == b""
