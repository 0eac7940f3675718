"""Heartbeats and model cards as JSON: there and back, and readable by an older or newer process."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UndecodableRecord
from app.protocol.heartbeats import (
    GatewayHeartbeat,
    ModelRegistration,
    WorkerHeartbeat,
    decode_heartbeat,
    decode_registration,
    encode_message,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNTS = st.integers(0, 2**31)
SECONDS = st.floats(0, 1e12)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
NUMBERS = st.lists(COUNTS, max_size=4).map(tuple)
WORKERS = st.builds(
    WorkerHeartbeat,
    worker=TEXT,
    model=TEXT,
    topic=TEXT,
    group=TEXT,
    replies=TEXT,
    time=SECONDS,
    interval=SECONDS,
    aliases=TEXTS,
    partitions=NUMBERS,
    positions=st.dictionaries(COUNTS.map(str), COUNTS, max_size=4),
    capacity=COUNTS,
    in_flight=COUNTS,
    waiting=COUNTS,
    running=TEXTS,
    ready=st.booleans(),
    reason=TEXT,
    leaving=st.booleans(),
    host=TEXT,
    version=TEXT,
    reads=NUMBERS,
)
GATEWAYS = st.builds(
    GatewayHeartbeat,
    gateway=TEXT,
    replies=TEXT,
    partition=COUNTS,
    time=SECONDS,
    interval=SECONDS,
    in_flight=COUNTS,
    leaving=st.booleans(),
    version=TEXT,
    reads=NUMBERS,
)
NAMES = st.text(min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and name == name.strip()
)
NAME_LISTS = st.lists(NAMES, max_size=4).map(tuple)
TOPIC_NAMES = st.from_regex(r"[a-z][A-Za-z0-9._-]{0,20}", fullmatch=True)
CARDS = st.builds(
    ModelRegistration,
    model=NAMES,
    topic=TOPIC_NAMES,
    group=TEXT,
    aliases=NAME_LISTS,
    owned_by=TEXT,
    created=COUNTS,
)

WORKER = WorkerHeartbeat("w1", "m", "llm.requests.m", "llm.m", "llm.replies", 1.5, 1.0)
GATEWAY = GatewayHeartbeat("g1", "llm.replies", 3, 1.5, 1.0)
CARD = ModelRegistration("m", "llm.requests.m", "llm.m")


@given(WORKERS | GATEWAYS)
def test_a_heartbeat_goes_there_and_back(beat):
    assert decode_heartbeat(encode_message(beat)) == beat


@given(CARDS)
def test_a_models_card_goes_there_and_back(card):
    assert decode_registration(encode_message(card)) == card


@pytest.mark.parametrize(
    ("sent", "decode"),
    [(WORKER, decode_heartbeat), (GATEWAY, decode_heartbeat), (CARD, decode_registration)],
)
def test_members_that_we_do_not_know_are_ignored(sent, decode):
    newer = {**orjson.loads(encode_message(sent)), "from_the_future": {"a": [1]}}
    assert decode(orjson.dumps(newer)) == sent


@pytest.mark.parametrize(
    ("sent", "decode", "required"),
    [
        (
            WORKER,
            decode_heartbeat,
            ["worker", "model", "topic", "group", "replies", "time", "interval"],
        ),
        (GATEWAY, decode_heartbeat, ["gateway", "replies", "partition", "time", "interval"]),
        (CARD, decode_registration, ["model", "topic", "group"]),
    ],
)
def test_an_older_process_may_leave_out_what_has_a_default_and_nothing_else(sent, decode, required):
    members = orjson.loads(encode_message(sent))
    assert decode(orjson.dumps({name: members[name] for name in required})) == sent
    for name in required:
        with pytest.raises(UndecodableRecord):
            decode(orjson.dumps({**{other: members[other] for other in required if other != name}}))


@given(
    st.binary(max_size=30)
    | st.sampled_from(
        [b"null", b"[]", b"{}", b'"x"', b"NaN", encode_message(CARD), b'{"worker": 1}']
    )
)
def test_anything_else_is_no_heartbeat(value):
    with pytest.raises(UndecodableRecord, match="not a heartbeat"):
        decode_heartbeat(value)


@given(st.binary(max_size=30) | st.sampled_from([b"null", b"[]", b"{}", encode_message(GATEWAY)]))
def test_anything_else_is_no_card(value):
    with pytest.raises(UndecodableRecord, match="not a model's card"):
        decode_registration(value)


def test_a_member_of_the_wrong_type_is_refused():
    for name, wrong in (
        ("time", "soon"),
        ("partitions", 3),
        ("positions", [1]),
        ("ready", "perhaps"),
        ("worker", None),
    ):
        with pytest.raises(UndecodableRecord):
            decode_heartbeat(orjson.dumps({**orjson.loads(encode_message(WORKER)), name: wrong}))


@pytest.mark.parametrize(
    "positions",
    [{"x": 1}, {"": 1}, {"-1": 1}, {"1.5": 1}, {"\u0663": 1}, {"1": -1}, {"1": 2**63}, {"1": "x"}],
)
def test_positions_are_of_numbered_partitions_and_offsets(positions):
    said = orjson.loads(encode_message(WORKER))
    assert decode_heartbeat(orjson.dumps({**said, "positions": {"0": 0, "12": 2**63 - 1}}))
    with pytest.raises(UndecodableRecord):
        decode_heartbeat(json.dumps({**said, "positions": positions}).encode())
