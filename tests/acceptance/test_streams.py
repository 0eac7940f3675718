"""Streams: tokens in order, errors before and after the first byte, and clients that leave."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from openai import APIError, BadRequestError

from tests.acceptance.asking import CHAT, HELLO, chat, events, text_of
from tests.acceptance.conftest import Site
from tests.acceptance.processes import until
from tests.numbered import tokens

LONG = {"x_gap": 0.05, "max_tokens": 2000}  # a generation that goes on for longer than any test
BROKEN = {"x_break_after": 3, "x_gap": 0.02, "logprobs": True}  # with logprobs no text can be continued


async def test_a_chat_streams_its_tokens_in_order(site: Site) -> None:
    stream = await site.gateway.openai().chat.completions.create(model="sim", messages=HELLO, max_tokens=200, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == tokens(200)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_text_completion_streams_its_tokens_in_order(site: Site) -> None:
    stream = await site.gateway.openai().completions.create(model="sim", prompt="hello", max_tokens=200, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == tokens(200)


async def test_usage_comes_with_the_stream_where_it_is_asked_for(site: Site) -> None:
    stream = await site.gateway.openai().chat.completions.create(
        model="sim", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (1, 5, 6)


async def test_a_slow_stream_is_not_held_back(site: Site) -> None:
    """The first tokens are here while the upstream still writes the others."""
    async with await site.gateway.openai().chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_body=LONG
    ) as stream:
        first = [(await anext(stream)).choices[0].delta.content for _ in range(4)]
        assert (await site.upstream.stats()).active == 1
    assert first == ["", " tok0", " tok1", " tok2"]


async def test_a_hundred_streams_at_once_keep_apart(site: Site) -> None:
    client = site.gateway.openai()

    async def one(count: int) -> str:
        stream = await client.chat.completions.create(
            model="sim", messages=HELLO, max_tokens=count, stream=True, extra_body={"x_gap": 0.005}
        )
        return await text_of(stream)

    counts = range(20, 120)
    assert await asyncio.gather(*map(one, counts)) == [tokens(count) for count in counts]


async def test_an_upstreams_refusal_of_a_stream_is_an_http_error(site: Site) -> None:
    with pytest.raises(BadRequestError) as refused:
        await site.gateway.openai().chat.completions.create(
            model="sim", messages=HELLO, stream=True, extra_body={"x_status": 400}
        )
    assert refused.value.code == "scripted"


async def test_the_head_comes_early_and_comments_keep_it_awake(site: Site) -> None:
    body = chat(stream=True, max_tokens=2, x_ttft=1.5, x_gap=1.0)
    async with site.gateway.http() as client, client.stream("POST", CHAT, json=body) as response:
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    kinds = "".join("c" if line == ": keep-alive" else "d" for line in lines)
    assert kinds.lstrip("c").count("d") == 5  # role, two tokens, finish, [DONE]
    assert kinds.startswith("cc"), "none before the first token"
    assert "c" in kinds.strip("cd"[:1]), "none between the tokens"


async def test_an_error_after_an_early_head_is_an_event(site: Site) -> None:
    body = chat(stream=True, x_status=400, x_ttft=1.0)
    async with site.gateway.http() as client:
        response = await client.post(CHAT, json=body)
    assert response.status_code == 200
    (event,) = events(response.content)
    assert event["error"]["code"] == "scripted"


@pytest.mark.parametrize(
    ("fate", "code"),
    [({"x_error_after": 3, "x_gap": 0.02}, "scripted"), (BROKEN, "worker_lost"), ({"x_status": 400, "x_ttft": 1.0}, "scripted")],
    ids=["the upstream's own error", "a broken connection", "an error after an early head"],
)
async def test_an_error_in_mid_stream_raises_in_the_sdk(site: Site, fate: dict, code: str) -> None:
    stream = await site.gateway.openai().chat.completions.create(model="sim", messages=HELLO, stream=True, extra_body=fate)
    text = ""
    with pytest.raises(APIError) as raised:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert raised.value.code == code
    assert text == ("" if "x_status" in fate else tokens(3))


async def test_a_broken_stream_ends_without_done(site: Site) -> None:
    async with site.gateway.http() as client:
        response = await client.post(CHAT, json=chat(stream=True, **BROKEN))
    *_, last = events(response.content)
    assert last["error"]["type"] == "server_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_generation(site: Site, stream: bool) -> None:
    before = await site.upstream.stats()
    async with AsyncExitStack() as leaving:
        client = await leaving.enter_async_context(site.gateway.http())
        asking = asyncio.create_task(client.post(CHAT, json=chat(stream=stream, **LONG)))

        async def runs() -> bool:
            return (await site.upstream.stats()).active == 1

        await until(runs, "the generation to run")
        asking.cancel()

    async def aborted() -> bool:
        now = await site.upstream.stats()
        return (now.active, now.aborted) == (0, before.aborted + 1)

    await until(aborted, "the generation to be ended")


async def test_a_client_that_leaves_in_mid_stream_ends_the_generation(site: Site) -> None:
    before = await site.upstream.stats()
    async with await site.gateway.openai().chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_body=LONG
    ) as stream:
        assert [(await anext(stream)).choices[0].delta.content for _ in range(3)] == ["", " tok0", " tok1"]

    async def aborted() -> bool:
        now = await site.upstream.stats()
        return (now.active, now.aborted) == (0, before.aborted + 1)

    await until(aborted, "the generation to be ended")
