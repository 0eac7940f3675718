"""What the demonstration model costs is bounded, whatever it is asked."""

import asyncio
from typing import Any

import pytest

from app.agent.engines.echo import MAX_REPLY, SLICE
from tests.unit.agent.engines.test_echo import CHAT, TEXT, call, refusal, said, whole


@pytest.mark.parametrize("size", [1_000_000, 8_000_000])
@pytest.mark.parametrize("unit", ["a ", "word", " \n"])
@pytest.mark.parametrize("n", [1, 64, 128])
async def test_a_reply_is_bounded_however_large_the_prompt_and_however_many_its_choices(
    n: int, unit: str, size: int
) -> None:
    prompt = unit * (size // len(unit))
    body = await whole(CHAT, messages=[{"role": "user", "content": prompt}], n=n)
    assert sum(len(said(choice)) for choice in body["choices"]) <= MAX_REPLY
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"]["prompt_tokens"] == len(prompt.split())


async def test_other_requests_have_their_turns_while_a_prompt_is_counted() -> None:
    turns, slices = 0, 40

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(others())
    await call(TEXT, prompt="word " * (slices * SLICE // 5), max_tokens=1)
    other.cancel()
    assert turns >= slices - 2


@pytest.mark.parametrize(
    "text",
    [
        "a" * SLICE + "b",
        "a" * (SLICE - 1) + " b",
        "a" * SLICE + " b",
        " " * SLICE + "a",
        "a b" * SLICE,
    ],
)
async def test_words_are_counted_as_one_text(text: str) -> None:
    assert (await whole(TEXT, prompt=text, max_tokens=1))["usage"]["prompt_tokens"] == len(
        text.split()
    )


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 4097}, "messages"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 4097}]},
            "messages",
        ),
        (CHAT, {"stop": ["x"] * 17}, "stop"),
        (CHAT, {"n": 129}, "n"),
        (TEXT, {"prompt": ["x"] * 4097}, "prompt"),
        (TEXT, {"prompt": ["x"] * 5, "n": 128}, "n"),
        (TEXT, {"prompt": ["x"] * 513}, "n"),
    ],
)
async def test_more_than_a_demonstration_needs_is_refused(
    path: str, body: dict[str, Any], param: str
) -> None:
    assert (await refusal(path, **body))["param"] == param
