"""Going on from a text: what counts as shown, when going on is faithful, and that both halves make
one whole.
"""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.reply.continuation import (
    Joiner,
    Prefix,
    budget_left,
    can_continue,
    continued,
    ending,
)
from app.openai_api.bodies import CHAT, COMPLETIONS, EMBEDDINGS
from app.openai_api.sse import DONE_EVENT, split_events
from tests.numbered import Generation, sse, tokens
from tests.unit.scene import chunks, text_of

ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "count to many"}]},
    COMPLETIONS: {"model": "m", "prompt": "count to many", "max_tokens": 16},
}
both = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


def delta(**members: Any) -> bytes:
    return sse({"id": "c-1", "choices": [{"index": 0, "delta": members, "finish_reason": None}]})


def prefix(text: str = "one", path: str = CHAT) -> Prefix:
    piece = {"delta": {"content": text}} if path == CHAT else {"text": text}
    return Prefix.of(
        path, sse({"id": "c-1", "created": 1, "model": "m", "choices": [{"index": 0, **piece}]})
    )


def generated(path: str, body: dict[str, Any], id_: str = "1", natural: int = 8) -> list[bytes]:
    """The events of one run."""
    run = Generation.of(id_, path, body, natural)
    middle = [run.token(index) for index in range(run.count)]
    include = bool((body.get("stream_options") or {}).get("include_usage"))
    return [
        event for event in [run.opening(), *middle, *split_events(run.closing(include))] if event
    ]


@both
def test_a_prefix_is_what_the_events_say(path):
    events = generated(
        path, {**ASKED[path], "max_tokens": 3, "stream_options": {"include_usage": True}}
    )
    found = Prefix.of(path, b": hello\n\n" + b"".join(events[:-1]))
    assert (found.text, found.tokens, found.events) == (tokens(3), 3, len(events) - 1)
    assert (found.finished, found.usage, found.plain) == (True, True, True)
    assert found.first["id"] == Generation.of("1", path, ASKED[path], 1).id


@pytest.mark.parametrize(
    "block", [b"", b": a comment\n\n", delta(role="assistant", content=""), delta(role="assistant")]
)
def test_a_role_or_a_comment_shows_nothing_of_the_answer(block):
    assert not Prefix.of(CHAT, block).shown


@pytest.mark.parametrize(
    "block",
    [
        delta(content="a"),
        delta(reasoning_content="hm"),
        delta(tool_calls=[{"index": 0}]),
        sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        sse({"choices": [{"index": 1, "delta": {"content": ""}}]}),
        sse({"error": {"message": "no"}}),
        b"data: not JSON\n\n",
    ],
)
def test_a_text_a_thought_a_call_a_finish_or_what_we_cannot_read_is_shown(block):
    assert Prefix.of(CHAT, delta(role="assistant", content="") + block).shown


@pytest.mark.parametrize(
    "event",
    [
        delta(reasoning_content="hm"),
        delta(content="a", tool_calls=[{"index": 0}]),
        delta(content=[{"type": "text", "text": "b"}]),
        sse({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
        sse({"error": {"message": "no"}}),
    ],
)
def test_what_is_more_than_text_is_not_continued(event):
    assert can_continue(CHAT, ASKED[CHAT], Prefix.of(CHAT, delta(content="a")))
    assert not can_continue(CHAT, ASKED[CHAT], Prefix.of(CHAT, delta(content="a") + event))


ASKS_FOR_MORE = {
    "tools": [{"type": "function"}],
    "functions": [{"name": "f"}],
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a+"},
    "min_tokens": 5,
    "echo": True,
    "stop": ["."],
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1},
    "suffix": "end",
    "n": 2,
    "best_of": 2,
}
NEUTRAL = {
    "tools": [[], None],
    "logprobs": [False, None],
    "response_format": [{"type": "text"}],
    "min_tokens": [0],
    "echo": [False],
    "stop": [None, [], ""],
    "presence_penalty": [0, 0.0],
    "frequency_penalty": [0],
    "repetition_penalty": [1, 1.0],
    "logit_bias": [{}],
    "suffix": [""],
    "n": [1, None],
    "best_of": [1],
    "temperature": [0.7],
    "seed": [1],
    "stream_options": [{"include_usage": True}],
}


@both
@pytest.mark.parametrize("field", ASKS_FOR_MORE)
def test_a_request_that_asks_for_more_than_text_is_not_continued(field, path):
    assert not can_continue(path, {**ASKED[path], field: ASKS_FOR_MORE[field]}, prefix(path=path))


@both
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in NEUTRAL.items() for value in values]
)
def test_a_field_that_asks_for_nothing_does_not_matter(field, value, path):
    assert can_continue(path, {**ASKED[path], field: value}, prefix(path=path))


@pytest.mark.parametrize(
    ("content", "can"), [("So ", True), (None, True), ([{"type": "text", "text": "So "}], False)]
)
def test_a_message_of_the_clients_own_is_gone_on_with_unless_it_is_made_of_parts(content, can):
    messages = [*ASKED[CHAT]["messages"], {"role": "assistant", "content": content}]
    asked = {"model": "m", "messages": messages, "continue_final_message": True}
    assert can_continue(CHAT, asked, prefix()) == can
    if can:
        assert (
            orjson.loads(continued(CHAT, asked, prefix()))["messages"][-1]["content"]
            == f"{content or ''}one"
        )
    assert can_continue(CHAT, {**asked, "continue_final_message": False}, prefix())


def test_a_completions_logprobs_of_0_asks_for_the_chosen_tokens_own():
    assert not can_continue(
        COMPLETIONS, {**ASKED[COMPLETIONS], "logprobs": 0}, prefix(path=COMPLETIONS)
    )


@both
@pytest.mark.parametrize("text", ["one ", "one\n", "one\t", "one\u00a0"])
def test_a_text_that_ends_in_white_space_is_not_continued(path, text):
    assert not can_continue(path, ASKED[path], prefix(text, path))


def test_only_chats_and_completions_of_one_text_are_continued():
    assert not can_continue(EMBEDDINGS, {"input": "a"}, prefix())
    for prompt in ([1, 2], ["a"], None):
        assert not can_continue(COMPLETIONS, {"prompt": prompt}, prefix(path=COMPLETIONS))


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, None),
        ({"max_tokens": 10}, 9),
        ({"max_completion_tokens": 5}, 4),
        ({"max_tokens": 10, "max_completion_tokens": 5}, 4),
        ({"max_tokens": None}, None),
        ({"max_tokens": 1}, 0),
    ],
)
def test_the_budget_is_the_smaller_limit_less_what_was_sent(limits, left):
    assert budget_left(limits, prefix()) == left


def test_a_completion_without_a_limit_has_the_apis_own_of_16():
    asked = {"model": "m", "prompt": "count"}
    assert budget_left(asked, prefix(path=COMPLETIONS)) == 15
    assert orjson.loads(continued(COMPLETIONS, asked, prefix(path=COMPLETIONS)))["max_tokens"] == 15


def test_a_completion_longer_than_that_is_from_an_upstream_that_sets_no_limit():
    long = Prefix.of(
        COMPLETIONS,
        b"".join(generated(COMPLETIONS, {"model": "m", "prompt": "count"}, natural=20)[:18]),
    )
    assert budget_left({"model": "m", "prompt": "count"}, long) is None


def test_a_chat_goes_on_from_the_text_as_its_last_message():
    asked = {**ASKED[CHAT], "max_tokens": 10, "seed": 7}
    new = orjson.loads(continued(CHAT, asked, prefix("one two")))
    assert new["messages"] == [
        *ASKED[CHAT]["messages"],
        {"role": "assistant", "content": "one two"},
    ]
    assert (new["continue_final_message"], new["add_generation_prompt"]) == (True, False)
    assert (new["max_tokens"], new["seed"], "max_completion_tokens" in new) == (9, 7, False)


def test_a_chat_that_itself_went_on_from_a_text_goes_on_from_both():
    begun = [*ASKED[CHAT]["messages"], {"role": "assistant", "content": "one"}]
    new = orjson.loads(
        continued(CHAT, {"messages": begun, "continue_final_message": True}, prefix(" two"))
    )
    assert new["messages"] == [
        *ASKED[CHAT]["messages"],
        {"role": "assistant", "content": "one two"},
    ]
    assert begun[-1]["content"] == "one", "the request itself is as it was"


def test_a_completion_goes_on_behind_its_prompt():
    assert (
        orjson.loads(continued(COMPLETIONS, ASKED[COMPLETIONS], prefix(" one", COMPLETIONS)))[
            "prompt"
        ]
        == "count to many one"
    )


@given(
    path=st.sampled_from([CHAT, COMPLETIONS]),
    count=st.integers(2, 9),
    data=st.data(),
    usage=st.booleans(),
)
def test_broken_off_anywhere_and_continued_a_stream_is_what_one_run_gives(path, count, data, usage):
    asked = {**ASKED[path], "max_tokens": count, "stream_options": {"include_usage": usage}}
    whole = generated(path, asked)
    role = 1 if path == CHAT else 0
    had = data.draw(st.integers(role + 1, role + count - 1), label="events that were seen")
    seen = Prefix.of(path, b"".join(whole[:had]))
    second = b"".join(generated(path, orjson.loads(continued(path, asked, seen)), id_="2"))
    joined = Joiner(seen, same_text=True).join(second)
    assert chunks(b"".join(whole[:had]) + joined) == chunks(b"".join(whole))
    assert joined.endswith(DONE_EVENT)


@given(split=st.integers(0, 2))
def test_begun_anew_behind_a_role_a_stream_has_one_id_one_role_and_its_own_usage(split):
    asked = {**ASKED[CHAT], "max_tokens": 3, "stream_options": {"include_usage": True}}
    whole, again = generated(CHAT, asked), generated(CHAT, asked, id_="2")
    joiner = Joiner(Prefix.of(CHAT, whole[0]), same_text=False)
    joined = b"".join(joiner.join(b"".join(part)) for part in (again[:split], again[split:]))
    assert chunks(whole[0] + joined) == chunks(b"".join(whole))


def test_a_first_event_with_role_and_text_keeps_its_text():
    joined = Joiner(prefix(), same_text=True).join(delta(role="assistant", content="two"))
    assert [choice["delta"] for chunk in chunks(joined) for choice in chunk["choices"]] == [
        {"content": "two"}
    ]


def test_comments_errors_and_the_end_pass_a_joiner_as_they_are():
    block = b': hi\n\ndata: {"error": {"message": "no"}}\n\n' + DONE_EVENT
    assert Joiner(prefix(), same_text=True).join(block) == block


def test_details_in_the_usage_are_left_alone():
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    (chunk,) = chunks(Joiner(prefix(), same_text=True).join(sse({"choices": [], "usage": usage})))
    assert chunk["usage"] == {**usage, "prompt_tokens": 9, "completion_tokens": 5}


@both
def test_a_used_up_budget_ends_with_length_usage_and_done(path):
    asked = {**ASKED[path], "stream_options": {"include_usage": True}}
    seen = Prefix.of(path, b"".join(generated(path, asked)[:-3]))
    events = ending(path, asked, seen)
    finish, usage = chunks(events)
    assert (finish["id"], finish["choices"][0]["finish_reason"], text_of(events)) == (
        seen.first["id"],
        "length",
        "",
    )
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], seen.tokens)
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + seen.tokens
    assert events.endswith(DONE_EVENT)


@both
def test_what_was_sent_already_is_not_in_the_ending(path):
    asked = {**ASKED[path], "stream_options": {"include_usage": True}}
    whole = generated(path, asked)
    assert [
        ("usage" in chunk)
        for chunk in chunks(ending(path, asked, Prefix.of(path, b"".join(whole[:-2]))))
    ] == [True]
    assert ending(path, asked, Prefix.of(path, b"".join(whole[:-1]))) == DONE_EVENT
    assert ending(path, ASKED[path], Prefix.of(path, b"".join(whole[:-2]))) == DONE_EVENT
