"""A request as a resource: what it says of a reply that was cut off."""

import pytest

from app.cluster.model_registry import ModelState
from app.inference.request_view import RequestView
from app.protocol.heartbeats import ModelRegistration
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, COMPLETED, DATA, FINAL
from app.protocol.reply_view import ReplyView
from app.protocol.request_id import Address, fingerprint_topic

ID = "0" * 32


def resource(*replies: ReplyRecord) -> RequestView:
    seen = ReplyView()
    for reply in replies:
        seen.apply_record(reply)
    request = RequestRecord(ID, "m", "/chat/completions", b"{}", True, 0, 0, 0, 1)
    return RequestView(
        Address(ID, fingerprint_topic("t"), 0, 0, 0, 0),
        request,
        ModelState(ModelRegistration("m", "t", "g")),
        seen,
    )


def events(count: int, seq: int) -> ReplyRecord:
    return ReplyRecord(ID, "worker", DATA, seq, b'data: {"choices":[]}\n\n' * count, 1 + seq)


def test_a_cancelled_stream_is_accounted_by_the_events_that_were_written():
    cut = ReplyRecord(
        ID, "gateway", FINAL, value=b"{}", status=409, outcome=CANCELLED, by_gateway=True
    )
    found = resource(events(3, 0), events(2, 1), cut).describe()
    assert (found["status"], found["usage"]) == (
        CANCELLED,
        {"completion_tokens": 5, "estimated": True},
    )


@pytest.mark.parametrize("written", [(), (events(3, 0),)])
def test_what_runs_or_was_cancelled_before_its_first_token_has_no_usage(written):
    assert resource(*written).describe()["usage"] is None


def test_the_upstreams_own_count_is_taken_as_it_is():
    final = ReplyRecord(
        ID, "worker", FINAL, 1, outcome=COMPLETED, notes=(("usage", '{"completion_tokens":2}'),)
    )
    assert resource(events(3, 0), final).describe()["usage"] == {"completion_tokens": 2}
