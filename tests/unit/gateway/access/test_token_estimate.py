"""How many tokens a request costs: before anybody knows, and in the end."""

import orjson
import pytest

from app.gateway.access.token_estimate import TokenEstimate
from app.inference.submission import Submission

ACCEPTED = {"request_id": "req_1"}


def estimate(stream: bool = False, text: str = "x" * 400, **members: object) -> TokenEstimate:
    return TokenEstimate(
        submission(orjson.dumps({"messages": [{"content": text}], **members}), stream)
    )


def submission(body: bytes, stream: bool = False, content_type: str = "") -> Submission:
    return Submission("/x", body, "m", stream, "t", 60.0, content_type=content_type)


def test_a_body_counts_by_its_size():
    assert 100 <= estimate().initial_tokens <= 110
    assert TokenEstimate(submission(b"{}")).initial_tokens == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_what_it_asks_for_at_most_is_added(name):
    assert estimate(**{name: 5000}).initial_tokens - estimate().initial_tokens == pytest.approx(
        5000, abs=10
    )


def test_what_only_its_text_says_is_not():
    assert estimate(text='{"max_tokens": 5000}').initial_tokens < 100


def test_a_form_counts_as_one_file():
    assert (
        TokenEstimate(
            submission(b"x" * 1_000_000, content_type="multipart/form-data; boundary=x")
        ).initial_tokens
        == 1000
    )


def test_a_file_inside_the_body_counts_as_one_and_not_by_its_size():
    image = {"image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert 1000 < estimate(image=image).initial_tokens < 1200


def test_a_reply_that_is_no_text_counts_as_a_file_and_not_by_its_size():
    for kind, tokens in ((b"audio/mpeg", 1100), (b"application/json", 25_100)):
        made = estimate()
        made.add_reply_headers([(b"content-type", kind)])
        made.add_reply_data(b"x" * 100_000)
        assert made.count_final_tokens(dict(ACCEPTED), 200) == pytest.approx(tokens, abs=10)


def test_the_usage_is_what_counts_in_the_end():
    line = {**ACCEPTED, "prompt_tokens": 7, "completion_tokens": 5}
    assert estimate(max_tokens=5000).count_final_tokens(line, 200) == 12
    assert "tokens_estimated" not in line
    assert estimate().count_final_tokens({**ACCEPTED, "prompt_tokens": 7}, 200) == 7


def test_without_a_usage_a_streams_events_count_and_the_line_says_that_it_is_an_estimate():
    line = dict(ACCEPTED)
    made = estimate(stream=True)
    for _ in range(5):
        made.add_reply_data(b"data: {}\n\ndata: {}\n\n")
    made.add_reply_data(b": keep-alive\n\n")
    assert made.count_final_tokens(line, 200) == pytest.approx(110, abs=10)
    assert line["tokens_estimated"] is True


def test_without_a_usage_a_whole_reply_counts_by_its_size():
    made = estimate()
    made.add_reply_data(b"x" * 400)
    assert made.count_final_tokens(dict(ACCEPTED), 200) == pytest.approx(200, abs=10)


def test_a_client_that_left_has_used_what_it_has_got():
    made = estimate(stream=True)
    made.add_reply_data(b"data: {}\n\n")
    assert made.count_final_tokens({**ACCEPTED, "client": "gone"}, 200) == pytest.approx(
        101, abs=10
    )


@pytest.mark.parametrize(
    ("line", "status"), [({}, 0), ({"code": "queue_full"}, 429), (ACCEPTED, 502), (ACCEPTED, 400)]
)
def test_what_was_refused_or_failed_has_cost_nothing(line, status):
    assert estimate().count_final_tokens(dict(line), status) == 0


def test_what_goes_on_without_its_client_stays_estimated():
    line = dict(ACCEPTED)
    assert estimate().count_final_tokens(line, 202) is None
    assert line["tokens_estimated"] is True
