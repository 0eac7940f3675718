import asyncio
from typing import Any

import orjson
import pytest

from app.agent.engines.base import Job
from app.agent.engines.echo import EchoAnswer, EchoEngine
from app.config.model_entry import ECHO
from app.config.settings import load_settings
from app.openai_api.sse import DONE_EVENT, extract_event_data, split_events

CHAT, TEXT = "/chat/completions", "/completions"


async def call(path: str, stream: bool = False, **body: Any) -> EchoAnswer:
    body.setdefault(
        *(
            ("messages", [{"role": "user", "content": "one two"}])
            if path == CHAT
            else ("prompt", "one two")
        )
    )
    raw = orjson.dumps({"model": "echo", "stream": stream, **body})
    return await EchoEngine(ECHO, load_settings({}).worker, pause=0).call(
        Job("0123", path, raw, stream)
    )


async def whole(path: str, **body: Any) -> Any:
    answer = await call(path, **body)
    assert answer.status == 200
    return orjson.loads(await answer.read())


async def events(path: str, **body: Any) -> list[Any]:
    blocks = split_events(await (await call(path, stream=True, **body)).read())
    assert blocks.pop() == DONE_EVENT
    return [orjson.loads(extract_event_data(block)) for block in blocks]


async def refusal(path: str, **body: Any) -> Any:
    answer = await call(path, **body)
    assert answer.status == 400
    return orjson.loads(await answer.read())["error"]


def said(choice: Any) -> str:
    text = (
        choice["text"]
        if "text" in choice
        else choice.get("message", choice.get("delta"))["content"]
    )
    assert isinstance(text, str)
    return text


def streamed(found: list[Any], index: int = 0) -> str:
    choices = [choice for event in found for choice in event["choices"] if choice["index"] == index]
    return "".join(
        choice.get("text", "") or choice.get("delta", {}).get("content", "") for choice in choices
    )


both = pytest.mark.parametrize("path", [CHAT, TEXT])


@both
async def test_it_repeats_what_it_is_told_and_says_what_it_is_and_how_to_get_a_real_model(
    path: str,
) -> None:
    text = said((await whole(path))["choices"][0])
    assert text.startswith("You said: one two\n\n")
    for words in (
        "built-in demonstration model",
        "FIRST_OPENAI_HOST",
        "FIRST_OPENAI_MODEL_NAME",
        "MODELS_FILE",
    ):
        assert words in text


@both
async def test_the_same_request_gets_the_same_text(path: str) -> None:
    assert (await whole(path))["choices"] == (await whole(path))["choices"]


@both
async def test_a_stream_is_word_by_word_and_says_what_the_whole_reply_says(path: str) -> None:
    text = said((await whole(path))["choices"][0])
    found = await events(path)
    assert streamed(found) == text
    assert len(found) == len(text.split()) + (2 if path == CHAT else 1)  # role and finish
    assert [event["choices"][0]["finish_reason"] for event in found[-2:]] == [None, "stop"]


async def test_a_chat_stream_begins_with_the_role() -> None:
    first, *rest = await events(CHAT)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in event["choices"][0]["delta"] for event in rest)


@both
async def test_replies_have_the_shape_of_the_api(path: str) -> None:
    body, [event, *_] = await whole(path), await events(path)
    objects = (
        ("chat.completion", "chat.completion.chunk")
        if path == CHAT
        else ("text_completion", "text_completion")
    )
    assert (body["object"], event["object"]) == objects
    assert body["model"] == event["model"] == "echo"
    assert body["id"] == event["id"] == ("chatcmpl-0123" if path == CHAT else "cmpl-0123")


@both
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_cuts_after_that_many_words(path: str, name: str) -> None:
    body = await whole(path, **{name: 3})
    assert (said(body["choices"][0]), body["choices"][0]["finish_reason"]) == (
        "You said: one",
        "length",
    )
    assert body["usage"]["completion_tokens"] == 3
    found = await events(path, **{name: 3})
    assert (streamed(found), found[-1]["choices"][0]["finish_reason"]) == (
        "You said: one",
        "length",
    )


async def test_the_newer_limit_wins_and_null_is_none() -> None:
    assert (await whole(CHAT, max_tokens=1, max_completion_tokens=2))["usage"][
        "completion_tokens"
    ] == 2
    assert (await whole(CHAT, max_tokens=None))["choices"][0]["finish_reason"] == "stop"


async def test_a_limit_that_is_just_enough_is_no_cut() -> None:
    count = (await whole(CHAT))["usage"]["completion_tokens"]
    assert (await whole(CHAT, max_tokens=count))["choices"][0]["finish_reason"] == "stop"


@both
@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
async def test_a_limit_that_is_no_number_above_0_is_refused(path: str, limit: object) -> None:
    assert (await refusal(path, max_tokens=limit))["param"] == "max_tokens"


@both
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("two", "You said: one "),
        (["zzz", "two", "one"], "You said: "),
        ([], None),
        (None, None),
        ("", None),
    ],
)
async def test_a_stop_text_ends_the_reply_before_it(
    path: str, stop: object, text: str | None
) -> None:
    body = await whole(path, stop=stop)
    assert said(body["choices"][0]) == (text or said((await whole(path))["choices"][0]))
    assert body["choices"][0]["finish_reason"] == "stop"


@both
async def test_the_limit_counts_where_it_comes_before_the_stop_text(path: str) -> None:
    assert (await whole(path, stop="two", max_tokens=1))["choices"][0]["finish_reason"] == "length"


@both
async def test_n_choices_each_say_it(path: str) -> None:
    body, found = await whole(path, n=3), await events(path, n=3)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {said(choice) for choice in body["choices"]} == {
        streamed(found, index) for index in range(3)
    }
    assert body["usage"]["completion_tokens"] == 3 * len(said(body["choices"][0]).split())
    assert [event["choices"][0]["finish_reason"] for event in found[-3:]] == ["stop"] * 3


@both
@pytest.mark.parametrize("n", [0, "2", 129])
async def test_an_n_out_of_bounds_is_refused(path: str, n: object) -> None:
    assert (await refusal(path, n=n))["param"] == "n"


@both
async def test_usage_counts_words(path: str) -> None:
    usage = (await whole(path, max_tokens=4))["usage"]
    assert usage == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


@both
async def test_a_stream_tells_its_usage_at_the_end_if_asked(path: str) -> None:
    *others, last = await events(path, max_tokens=4, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 6)
    assert all("usage" not in event for event in others)
    assert all("usage" not in event for event in await events(path, stream_options=None))


async def test_what_is_not_text_in_a_message_is_named() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {}},
    ]
    body = await whole(CHAT, messages=[{"role": "user", "content": parts}])
    assert said(body["choices"][0]).startswith("You said: What is this? [image] [input_audio]\n")


async def test_it_repeats_the_users_last_message() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "second"},
        {"role": "tool", "content": "42"},
    ]
    assert said((await whole(CHAT, messages=messages))["choices"][0]).startswith(
        "You said: second\n"
    )


async def test_without_a_users_message_it_only_says_what_it_is() -> None:
    text = said(
        (await whole(CHAT, messages=[{"role": "system", "content": "Be kind."}]))["choices"][0]
    )
    assert text.startswith("I am the built-in demonstration model")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_text_is_gone_on_with_from_any_word(stream: bool) -> None:
    async def tell(*messages: dict[str, str], **body: Any) -> str:
        if stream:
            return streamed(await events(CHAT, messages=messages, **body))
        return said((await whole(CHAT, messages=messages, **body))["choices"][0])

    question = {"role": "user", "content": "one two\n three"}
    text = await tell(question)
    for words in range(1, len(text.split()) + 1):
        so_far = await tell(question, max_tokens=words)
        rest = await tell(
            question, {"role": "assistant", "content": so_far}, continue_final_message=True
        )
        assert so_far + rest == text


async def test_a_text_of_somebody_else_is_gone_on_with_too() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Once upon a time"},
    ]
    body = await whole(CHAT, messages=messages, continue_final_message=True)
    assert said(body["choices"][0]).startswith(" You said: hi\n")


async def test_there_must_be_a_text_to_go_on_with() -> None:
    assert (await refusal(CHAT, continue_final_message=True))["param"] == "messages"


async def test_a_list_of_prompts_gets_an_answer_each() -> None:
    choices = (await whole(TEXT, prompt=["one", "two"], n=2, max_tokens=3))["choices"]
    assert [said(choice) for choice in choices] == ["You said: one"] * 2 + ["You said: two"] * 2


@pytest.mark.parametrize("prompt", [None, 7, [], [1, 2], [[1, 2]]])
async def test_a_prompt_that_is_not_text_is_refused(prompt: object) -> None:
    assert (await refusal(TEXT, prompt=prompt))["param"] == "prompt"


@pytest.mark.parametrize("messages", [None, "hi", [], ["hi"]])
async def test_messages_that_are_no_messages_are_refused(messages: object) -> None:
    assert (await refusal(CHAT, messages=messages))["param"] == "messages"


@pytest.mark.parametrize("stop", [7, [7]])
async def test_a_stop_that_is_not_text_is_refused(stop: object) -> None:
    assert (await refusal(CHAT, stop=stop))["param"] == "stop"


@pytest.mark.parametrize("raw", [b"{", b"[]", b""])
async def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    answer = await EchoEngine(ECHO, load_settings({}).worker).call(Job("0123", CHAT, raw, False))
    assert (answer.status, orjson.loads(await answer.read())["error"]["code"]) == (
        400,
        "invalid_json",
    )


@pytest.mark.parametrize("path", ["/embeddings", "/responses", "/chat/completions/x"])
async def test_other_paths_are_not_there(path: str) -> None:
    answer = await call(path, prompt="x")
    error = orjson.loads(await answer.read())["error"]
    assert (answer.status, error["type"], error["code"]) == (
        404,
        "invalid_request_error",
        "unknown_url",
    )
    assert path in error["message"]


async def test_a_query_does_not_hide_the_path() -> None:
    assert (await call(f"{CHAT}?a=b", messages=[{"role": "user", "content": "x"}])).status == 200


async def test_only_the_words_after_the_first_event_of_a_stream_wait() -> None:
    engine = EchoEngine(ECHO, load_settings({}).worker, pause=3600)
    body = orjson.dumps({"messages": [{"role": "user", "content": "hi"}]})
    first = asyncio.get_running_loop().create_future()
    relaying = asyncio.create_task(
        (await engine.call(Job("0123", CHAT, body, True))).relay(first.set_result)
    )
    assert b'"role":"assistant"' in await first  # the first does not wait
    relaying.cancel()
    # nor does a whole reply
    assert b"You said" in await (await engine.call(Job("0123", CHAT, body, False))).read()
