"""What a Kafka consumer has fetched, on its way to the event loop: as our records, in pieces that
do not hold it up.
"""

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from app.bus.base import Record
from app.bus.kafka.reader import in_pieces, to_record


def record(offset: int, size: int) -> Record:
    return Record("t", 0, offset, 0, b"", b"x" * size, [])


@given(st.lists(st.sampled_from([0, 10, 30 * 1024, 64 * 1024, 200 * 1024]), max_size=30))
def test_all_are_there_in_order_and_a_piece_ends_where_it_is_large(sizes):
    records = [record(offset, size) for offset, size in enumerate(sizes)]
    pieces = list(in_pieces(records))
    assert [one for piece in pieces for one in piece] == records
    for piece in pieces:
        assert sum(len(one.value or b"") for one in piece[:-1]) < 64 * 1024, (
            "no longer than it must be"
        )
    for piece in pieces[:-1]:
        assert sum(len(one.value or b"") for one in piece) >= 64 * 1024, "no shorter either"


def test_small_records_stay_together():
    assert [len(piece) for piece in in_pieces([record(offset, 100) for offset in range(500)])] == [
        500
    ]


def test_a_header_without_a_value_has_an_empty_one():
    message = Message("t", 1, 2, b"k", b"v", [("id", b"a"), ("none", None), ("empty", b"")])
    assert to_record(message).headers == [("id", b"a"), ("none", b""), ("empty", b"")]
