"""Asking for usage changes the one member of a body; taking it out again leaves the stream that
would have come unasked.
"""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.reply.usage_request import UsageStripper, asking, refuses
from app.openai_api.sse import DONE_EVENT, split_events
from tests.numbered import Generation, sse

ODD = (
    b' { "metadata":{"stream":1, "n": 123456789012345678901234567890}, "model" : '
    b'"m",\t"x":"{\\"stream_options\\":1}", "t":1.0}'
)
SWITCH = {"include_usage": True}


def after(body: bytes) -> Any:
    asked = asking(body)
    assert asked is not None
    return json.loads(asked)


def test_a_body_without_options_gets_them_and_no_other_byte_is_changed() -> None:
    asked = asking(ODD)
    assert asked is not None
    assert asked.replace(b'"stream_options":{"include_usage":true},', b"") == ODD
    assert json.loads(asked) == {**json.loads(ODD), "stream_options": SWITCH}


@pytest.mark.parametrize(
    ("options", "then"),
    [
        (b"null", SWITCH),
        (b" { } ", SWITCH),
        (b'{"include_usage" : false}', SWITCH),
        (b'{"include_usage":null,"a":false}', {**SWITCH, "a": False}),
        (b'{\n"include_obfuscation":false}', {**SWITCH, "include_obfuscation": False}),
    ],
)
def test_options_that_do_not_ask_get_the_switch(options: bytes, then: dict[str, Any]) -> None:
    body = (
        b'{"a":[{"b":{}}],"stream_options" :'
        + options
        + b',"c":{"d":null},"n":123456789012345678901234567890}'
    )
    assert after(body) == {**json.loads(body), "stream_options": then}


def test_options_deeper_inside_are_somebody_elses() -> None:
    body = b'{"tools":[{"stream_options":{"include_usage":false}}]}'
    assert after(body) == {**json.loads(body), "stream_options": SWITCH}


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream_options":{"include_usage":true}}',
        b'{"x":{"stream_options":{}},"stream_options":{}}',
    ],
)
def test_a_client_that_asks_itself_and_one_that_cannot_be_told_apart_are_left_alone(
    body: bytes,
) -> None:
    assert asking(body) is None


# hypothesis tries the words that our code has
text = st.text(max_size=20).filter(lambda text: text != "stream_options")
members = st.dictionaries(
    st.text(max_size=8),
    st.recursive(st.none() | st.booleans() | st.integers() | text, st.lists),
    max_size=4,
)


@given(
    members, st.sampled_from([None, {}, {"include_usage": False}, {"x": {}}, ...]), st.booleans()
)
def test_whatever_else_a_body_has_stays(others: dict[str, Any], options: Any, spaced: bool) -> None:
    body = {
        "model": "m",
        **others,
        **({} if options is ... else {"stream_options": options}),
        **others,
    }
    found = after(json.dumps(body, indent=1 if spaced else None, ensure_ascii=spaced).encode())
    assert found == {**body, "stream_options": {**(body.get("stream_options") or {}), **SWITCH}}


def generation() -> Generation:
    return Generation("1", "m", True, 0, 3, "stop", 1)


def events(*, usage: bool) -> list[bytes]:
    run = generation()
    return [run.opening(), *(run.token(number) for number in range(3)), run.closing(usage)]


def stripped(*blocks: bytes) -> bytes:
    """All that a stripper lets out of a stream of these blocks."""
    stripper = UsageStripper()
    return b"".join([*(stripper.strip(block) for block in blocks), stripper.release()])


def test_the_chunk_with_the_usage_is_taken_out() -> None:
    assert stripped(*events(usage=True)) == b"".join(events(usage=False))
    assert stripped(b"".join(events(usage=True))) == b"".join(events(usage=False))


def test_a_finish_reason_waits_for_the_next_event_only() -> None:
    *tokens, last = events(usage=True)
    finish, usage, done = split_events(last)
    stripper = UsageStripper()
    assert [stripper.strip(block) for block in tokens] == tokens
    assert (stripper.strip(finish), stripper.strip(usage), stripper.strip(done)) == (
        b"",
        b"",
        finish + done,
    )
    assert stripper.strip(finish) == b""
    assert stripper.strip(b": ping\n\n") == finish + b": ping\n\n"


@pytest.mark.parametrize("null", [b',"usage":null', b', "usage": null'])
@pytest.mark.parametrize("behind", [b"", b',"obfuscation":"x"'])
def test_the_nulls_that_come_with_it_are_taken_out(null: bytes, behind: bytes) -> None:
    plain = b'data: {"choices":[{"delta":{"content":"a"}}]' + behind + b"}\n\n"
    assert stripped(plain.replace(b"]" + behind, b"]" + null + behind)) == plain
    first = b'data: {"usage":null,"choices":[]}\n\n'
    assert stripped(first) == b'data: {"choices":[]}\n\n'


@pytest.mark.parametrize(
    "usage",
    [
        b"{}",
        b"[]",
        b'"x"',
        b"NaN",
        b'{"prompt_tokens":1e400}',
        b'{"prompt_tokens":%b}' % (b"9" * 5000),
    ],
)
@pytest.mark.parametrize("space", [b"", b" "])
def test_the_chunk_that_was_asked_for_is_taken_out_whatever_its_usage_is(
    usage: bytes, space: bytes
) -> None:
    chunk = b'data: {"choices":%b[%b],"usage":%b}\n\n' % (space, space, usage)
    assert stripped(chunk + DONE_EVENT) == DONE_EVENT


@pytest.mark.parametrize(
    "event",
    [
        sse({"choices": [{"delta": {"content": 'he said "usage": null, and ,"usage":null'}}]}),
        # it sends that to everybody
        sse({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}),
        sse({"choices": [], "prompt_filter_results": [], "usage_of": 1}),
        b': "usage" "choices":[]\n\n',
        sse({"error": {"message": "no usage"}}),
        DONE_EVENT,
    ],
)
def test_all_else_passes_as_it_came(event: bytes) -> None:
    assert stripped(event) == event


def test_an_error_that_names_the_option_is_about_our_asking() -> None:
    assert refuses(400, orjson.dumps({"error": {"message": "Unknown field: stream_options"}}))
    assert refuses(
        422,
        b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}',
    )
    assert not refuses(400, b'{"error":{"message":"temperature is too high"}}')
    assert not refuses(500, b"stream_options")
