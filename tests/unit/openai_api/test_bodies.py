"""The validation table of request bodies, and the model's name in requests and replies."""

import contextlib
import json
import sys

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import BadRequest, InvalidBody
from app.openai_api.bodies import (
    ANY_PATH,
    CHAT,
    CHECKS,
    COMPLETIONS,
    EMBEDDINGS,
    ParsedBody,
    check_body,
    is_text_content_type,
)
from app.openai_api.model_member import replace_reply_model, replace_request_model

TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is not UTF-8
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["model", 'a"model', "role"]) | TEXT, inner)
    ),
    max_leaves=8,
)
SMALLEST = {
    CHAT: {"model": "m", "messages": [{"role": "user"}]},
    COMPLETIONS: {"model": "m", "prompt": "a"},
    EMBEDDINGS: {"model": "m", "input": ["a"]},
    "/rerank": {"model": "m"},
}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("path", SMALLEST)
def test_the_smallest_body_of_each_endpoint_passes(path):
    assert check_body(path, encoded(SMALLEST[path])) == ParsedBody("m", stream=False)


@pytest.mark.parametrize("part", [b"[]", b'{"a":1}', b'{"role":"user"}'])
def test_a_large_body_may_have_many_parts_but_not_so_many_that_all_others_wait(part):
    for count, fits in ((40_000, True), (400_000, False)):
        body = b'{"model":"m","prompt":"a","x":[' + b",".join([part] * count) + b"]}"
        with contextlib.nullcontext() if fits else pytest.raises(InvalidBody, match="300000"):
            assert check_body(COMPLETIONS, body).model == "m"
    members = {str(number): 1 for number in range(400_000)}
    with pytest.raises(InvalidBody, match="300000"):
        check_body(COMPLETIONS, encoded({"model": "m", "prompt": "a", "x": members}))


def test_speech_as_events_is_a_stream():
    assert check_body("/audio/speech", encoded({"model": "m", "stream_format": "sse"})).stream
    assert not check_body("/audio/speech", encoded({"model": "m", "stream_format": "audio"})).stream
    assert not check_body(CHAT, encoded(SMALLEST[CHAT] | {"stream_format": "sse"})).stream


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain; charset=utf-8", "application/vnd.api+json", ""]
)
def test_what_is_json_or_text_is_text(kind):
    assert is_text_content_type(kind)
    assert not is_text_content_type("audio/mpeg")


@pytest.mark.parametrize(
    ("more", "stream"),
    [
        ({"stream": True}, True),
        ({"stream": False}, False),
        ({"stream": None, "stream_options": None}, False),
        ({"stream": True, "stream_options": {}}, True),
        ({"stream": True, "stream_options": {"include_usage": None}}, True),
        ({"stream": True, "stream_options": {"include_usage": True, "later": 1}}, True),
    ],
)
def test_stream_is_read(more, stream):
    assert check_body(CHAT, encoded(SMALLEST[CHAT] | more)) == ParsedBody("m", stream)


@pytest.mark.parametrize(
    ("path", "change", "param", "message"),
    [
        (CHAT, {"model": ...}, "model", "model is missing: expected a string."),
        (CHAT, {"model": None}, "model", "model: expected a string, got null."),
        (CHAT, {"model": 7}, "model", "model: expected a string, got a number."),
        ("/rerank", {"model": True}, "model", "model: expected a string, got a boolean."),
        ("/rerank", {"model": ...}, "model", "model is missing: expected a string."),
        ("/rerank", {"model": ""}, "model", "model: expected a string that is not empty."),
        (CHAT, {"stream": "yes"}, "stream", "stream: expected a boolean, got a string."),
        (CHAT, {"stream": 1}, "stream", "stream: expected a boolean, got a number."),
        (
            CHAT,
            {"stream_options": []},
            "stream_options",
            "stream_options: expected an object, got an array.",
        ),
        (
            CHAT,
            {"stream_options": {"include_usage": 1.5}},
            "stream_options.include_usage",
            "stream_options.include_usage: expected a boolean, got a number.",
        ),
        (CHAT, {"messages": ...}, "messages", "messages is missing: expected an array."),
        (CHAT, {"messages": []}, "messages", "messages: expected an array that is not empty."),
        (CHAT, {"messages": "hi"}, "messages", "messages: expected an array, got a string."),
        (
            CHAT,
            {"messages": [{"role": "user"}, "hi"]},
            "messages[1]",
            "messages[1]: expected an object, got a string.",
        ),
        (
            CHAT,
            {"messages": [{}]},
            "messages[0].role",
            "messages[0].role is missing: expected a string.",
        ),
        (
            CHAT,
            {"messages": [{"role": {}}]},
            "messages[0].role",
            "messages[0].role: expected a string, got an object.",
        ),
        (
            COMPLETIONS,
            {"prompt": ...},
            "prompt",
            "prompt is missing: expected a string or an array.",
        ),
        (
            COMPLETIONS,
            {"prompt": None},
            "prompt",
            "prompt: expected a string or an array, got null.",
        ),
        (
            EMBEDDINGS,
            {"input": {}},
            "input",
            "input: expected a string or an array, got an object.",
        ),
        (
            EMBEDDINGS,
            {"": 1, "input": ...},
            "input",
            "input is missing: expected a string or an array.",
        ),
    ],
)
def test_a_wrong_field_is_named_by_its_place_and_kind(path, change, param, message):
    document = {
        name: value for name, value in (SMALLEST[path] | change).items() if value is not ...
    }
    with pytest.raises(BadRequest) as raised:
        check_body(path, encoded(document))
    assert (raised.value.status, raised.value.param, raised.value.message) == (400, param, message)
    assert raised.value.code is None


def test_a_field_that_stands_in_for_another_spares_the_check():
    assert check_body(COMPLETIONS, encoded({"model": "m", "prompt_embeds": "AAAA"})).model == "m"
    assert (
        check_body(
            COMPLETIONS, encoded({"model": "m", "prompt": None, "prompt_embeds": "AAAA"})
        ).model
        == "m"
    )
    assert (
        check_body(EMBEDDINGS, encoded({"model": "m", "messages": [{"role": "user"}]})).model == "m"
    )


def test_what_an_upstream_refuses_better_is_left_to_it():
    odd = {
        "temperature": "hot",
        "n": -1,
        "tools": 3,
        "messages": [{"role": "nobody", "content": 5}],
    }
    assert check_body(CHAT, encoded({"model": "m"} | odd)).model == "m"
    assert (
        check_body(
            "/responses", encoded({"model": "m", "messages": 1, "prompt": 2, "input": 3})
        ).model
        == "m"
    )


def test_every_check_says_its_reason_and_its_path_is_looked_at():
    for row in CHECKS:
        assert len(row.reason.split()) >= 5
        assert row.path in (ANY_PATH, *SMALLEST)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "empty"),
        (b" \r\n\t ", "empty"),
        (b'{"model": "m"', "line 1, column 14"),
        (b'{"model": "m",\n "messages": secret}', "line 2, column 14"),
        (b'{"model": "m", "n": NaN}', "line 1, column 21"),
        (b'{"model": "m", "n": 1e999}', "infinity"),
        (b'{"model": "m"} {}', "line 1, column 16"),
        (b'{"model": "m", "x": "\xc3"}', "not UTF-8 at byte 21"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8 at byte 0"),
        (b'\xef\xbb\xbf{"model": "m"}', "byte order mark"),
        (b'{"model": "\\ud800"}', "surrogate"),
        (b"[" * 50_000, "depth"),
        (b'{"model":' * 50_000, "depth"),
        (b"[" * 900 + b"]" * 900, "not an array"),
        (b"null", "not null"),
        (b'"secret"', "not a string"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_400_that_says_where(body, part):
    with pytest.raises(InvalidBody) as raised:
        check_body(CHAT, body)
    assert raised.value.status == 400
    assert part in raised.value.message
    assert "secret" not in raised.value.message


@given(st.binary() | JSON.map(encoded), st.sampled_from([*SMALLEST]))
def test_any_bytes_are_a_body_or_a_bad_request(body, path):
    with contextlib.suppress(BadRequest):
        assert check_body(path, body).model == orjson.loads(body)["model"]


@given(st.integers(0, 2**31), st.data())
def test_a_truncated_body_is_invalid_json(seed, data):
    body = encoded(SMALLEST[CHAT] | {"seed": seed})
    with pytest.raises(InvalidBody):
        check_body(CHAT, body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","n":1.0}', b'{"model":"b","n":1.0}'),
        (b'{ "n" : 1e2,\n "model" \t:\r\n "a" }', b'{ "n" : 1e2,\n "model" \t:\r\n "b" }'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"x":{"model":"a"},"\\u006dodel":"a"}', b'{"x":{"model":"a"},"\\u006dodel":"b"}'),
        (b'{"model":"\\u0061","x":[{"model":"a"}]}', b'{"model":"b","x":[{"model":"a"}]}'),
        (b'{"model":"a","model":"a"}', b'{"model":"b","model":"b"}'),
        (
            b'{"x":"\\\\","model":"a","y":"\\"model\\":\\"a\\""}',
            b'{"x":"\\\\","model":"b","y":"\\"model\\":\\"a\\""}',
        ),
        (b'{"y\\"model":"a","model":"a"}', b'{"y\\"model":"a","model":"b"}'),
        (
            b'{"y":"model","model":"a","n":123456789012345678901}',
            b'{"y":"model","model":"b","n":123456789012345678901}',
        ),
        (b'{"model":"c"}', b'{"model":"c"}'),
    ],
)
def test_only_the_top_level_model_changes(body, expected):
    assert replace_request_model(body, "a", "b") == expected
    assert replace_request_model(body, "a", "longer") == expected.replace(b'"b"', b'"longer"')


@given(
    st.dictionaries(TEXT, JSON), TEXT.filter(bool), TEXT, st.booleans(), st.sampled_from([None, 2])
)
@example({"x": {"model": "a"}, 'x"model': "a"}, "a", "b", False, None)
def test_with_model_is_what_parsing_and_encoding_again_would_give(more, old, new, plain, indent):
    document = more | {"model": old}
    body = json.dumps(document, ensure_ascii=not plain, indent=indent).encode()
    changed = replace_request_model(body, old, new)
    assert json.loads(changed) == document | {"model": new}
    assert replace_request_model(changed, new, old) == replace_request_model(body, old, old)


SPELLINGS = (
    b'"model"',
    b'"Model"',
    b'"MODEL"',
    b'"mOdel"',
    rb'"\u006dodel"',
    rb'"m\u006Fdel"',
    rb'"mode\u004C"',
)


@pytest.mark.parametrize("second", SPELLINGS)
@pytest.mark.parametrize("first", SPELLINGS)
def test_a_model_named_twice_in_any_spelling_is_refused_by_its_name(first, second):
    for space in (b"", b" \t\r\n"):
        body = b'{"messages":[{"role":"user"}],%b%b:"m","n":{"model":1},%b%b:"other"}' % (
            first,
            space,
            second,
            space,
        )
        with pytest.raises(BadRequest) as refused:
            check_body(CHAT, body)
        assert (refused.value.status, refused.value.param) == (400, "model")


@pytest.mark.parametrize(
    "more",
    [
        {"x": {"model": 1, "Model": 2}, "tools": [{"MODEL": {"model": []}}] * 2},
        {"x": '"model":"b","Model":"c"', "y": "model", "z": ["model", "model", 'a\\"model":']},
        {'a"model': 1, "models": 2, "Modell": 3, "\\model": 4, "base_model": 5, "model ": 6},
        {"x": "{[" * 9, "y": '\\"' * 9, "é": "\u006d \\u006d"},
    ],
)
def test_what_only_looks_like_a_second_model_passes(more):
    for document in (SMALLEST[CHAT] | more, more | SMALLEST[CHAT]):
        assert check_body(CHAT, encoded(document)) == ParsedBody("m", stream=False)
    with pytest.raises(BadRequest, match="more than once"):
        check_body(CHAT, encoded(SMALLEST[CHAT] | more)[:-1] + b',"model":"m"}')


class Copied(bytes):
    """A body that counts the bytes that are copied out of it, and out of what was made of it."""

    count_of_bytes = 0

    def __getitem__(self, index):
        return Copied.counted(super().__getitem__(index))

    def __add__(self, other):
        return Copied.counted(bytes(self) + other)

    @classmethod
    def counted(cls, found):
        if not isinstance(found, bytes):
            return found
        cls.count_of_bytes += len(found)
        return cls(found)


@pytest.mark.parametrize("repeated", [1, 100, 10_000])
def test_a_model_repeated_often_is_copied_once(repeated):
    body = Copied(
        b'{"x":[' + b'{"model":"a"},' * repeated + b"1]," + b'"model":"a",' * repeated + b'"y":1}'
    )
    Copied.count_of_bytes = 0
    changed = replace_request_model(body, "a", "b")
    assert (changed.count(b'"a"'), changed.count(b'"b"')) == (repeated, repeated)
    assert Copied.count_of_bytes <= len(body)


def test_a_full_body_of_repetitions_is_refused_after_the_second():
    body = (
        b'{"messages":[{"role":"user"}],'
        + b'"model":"a",' * 290_000
        + b'"x":"'
        + b"a" * 13_000_000
        + b'"}'
    )
    called = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: called.append(event))
    try:
        with pytest.raises(BadRequest, match="more than once"):
            check_body(CHAT, body)
    finally:
        sys.setprofile(before)
    assert len(called) < 200


def test_a_model_with_slashes_escaped_by_the_client_is_found():
    assert (
        replace_request_model(rb'{"model":"org\/m","x":{"model":1}}', "org/m", "b")
        == b'{"model":"b","x":{"model":1}}'
    )


def test_the_model_is_renamed_in_every_event_of_a_block_and_at_every_depth():
    block = (
        b"event: response.created\ndata: "
        b'{"type":"response.created","response":{"model":"up/a","n":1.0}}\n\n'
        b'data: {"id":"1", "model": "up/a", "choices": []}\n\n: keep-alive\n\ndata: [DONE]\n\n'
    )
    assert replace_reply_model(block, "up/a", "b") == block.replace(b'"up/a"', b'"b"')


def test_text_that_a_model_wrote_is_not_renamed():
    text = '{"model":"a"} or {"model": "a"}'
    reply = encoded(
        {"model": "a", "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    )
    renamed = json.loads(replace_reply_model(reply, "a", "b"))
    assert renamed["model"] == "b"
    assert renamed["choices"][0]["message"]["content"] == text


def test_a_name_that_only_begins_like_the_model_is_left_alone():
    reply = b'{"model":"a-1","base_model":"a","root":"a"}'
    assert replace_reply_model(reply, "a", "b") == reply


@given(
    st.dictionaries(TEXT.filter(lambda name: '"' not in name), TEXT),
    TEXT,
    TEXT,
    st.booleans(),
    st.booleans(),
)
def test_a_renamed_reply_differs_in_its_model_only(more, old, new, plain, tight):
    reply = more | {"model": old}
    block = json.dumps(
        reply, ensure_ascii=not plain, separators=(",", ":") if tight else None
    ).encode()
    assert json.loads(replace_reply_model(block, old, new)) == reply | {"model": new}


def test_numbers_keep_their_text_on_the_way_through():
    body = (
        b'{"model":"a","temperature":0.70000000000000000001,"seed":1e2,"x":[-0.0,1E+3],"y":"model"}'
    )
    assert replace_request_model(body, "a", "b") == body.replace(b'"a"', b'"b"')
