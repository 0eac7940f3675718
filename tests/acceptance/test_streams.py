"""Streams: tokens in order, errors before and after the first byte, and clients that leave."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError

from tests.acceptance.asking import CHAT, HELLO, chat, events, text_of
from tests.acceptance.conftest import Site
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, check_whole
from tests.numbered import tokens

LONG = {"x_gap": 0.05, "max_tokens": 2000}  # a generation that goes on for longer than any test
# with logprobs no text can be continued
BROKEN = {"x_break_after": 3, "x_gap": 0.02, "logprobs": True}


async def test_a_chat_streams_its_tokens_in_order(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="sim", messages=HELLO, max_tokens=200, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == tokens(200)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_text_completion_streams_its_tokens_in_order(sdk: AsyncOpenAI) -> None:
    stream = await sdk.completions.create(model="sim", prompt="hello", max_tokens=200, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == tokens(200)


async def test_usage_comes_with_the_stream_where_it_is_asked_for(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="sim",
        messages=HELLO,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (
        1,
        5,
        6,
    )


async def test_a_slow_stream_is_not_held_back(site: Site, sdk: AsyncOpenAI) -> None:
    """The first tokens are here while the upstream still writes the others."""
    await site.upstream.idle()
    async with await sdk.chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_body=LONG
    ) as stream:
        first = [(await anext(stream)).choices[0].delta.content for _ in range(4)]
        assert await site.upstream.has(active=1)
    assert first == ["", " tok0", " tok1", " tok2"]


async def test_a_hundred_streams_at_once_keep_apart(sdk: AsyncOpenAI) -> None:
    async def one(count: int) -> str:
        stream = await sdk.chat.completions.create(
            model="sim", messages=HELLO, max_tokens=count, stream=True, extra_body={"x_gap": 0.005}
        )
        return await text_of(stream)

    counts = range(20, 120)
    assert await asyncio.gather(*map(one, counts)) == [tokens(count) for count in counts]


async def test_an_upstreams_refusal_of_a_stream_is_an_http_error(sdk: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        await sdk.chat.completions.create(
            model="sim", messages=HELLO, stream=True, extra_body={"x_status": 400}
        )
    assert refused.value.code == "scripted"


@pytest.mark.parametrize(
    ("waits", "seen"),
    [({"x_ttft": 60}, 0), ({"x_gap": 60}, 1)],
    ids=["before a token", "between two"],
)
async def test_the_head_comes_early_and_comments_keep_it_awake(
    site: Site, waits: dict[str, int], seen: int
) -> None:
    await site.upstream.idle()
    async with Clients() as clients:
        reading = clients.post(site.early, chat(stream=True, max_tokens=2, **waits))
        await reading.tokens(seen)
        before = len(reading.told.comments)
        await until(lambda: len(reading.told.comments) >= before + 2, "two comments")
        assert reading.told.public_id.startswith("req_")
        assert len(reading.told.pieces) == seen
        await until(lambda: site.upstream.has(active=1), "the generation to run")
        await site.upstream.release()
        told = await reading.end()
    check_whole(told, 2)
    assert set(told.comments) == {"keep-alive"}


async def test_an_error_after_an_early_head_is_an_event(early: httpx2.AsyncClient) -> None:
    body = chat(stream=True, x_status=400, x_ttft=1.0)
    response = await early.post(CHAT, json=body)
    assert response.status_code == 200
    (event,) = events(response.content)
    assert event["error"]["code"] == "scripted"


@pytest.mark.parametrize(
    ("fate", "code"),
    [({"x_error_after": 3, "x_gap": 0.02}, "scripted"), (BROKEN, "worker_lost")],
    ids=["the upstream's own error", "a broken connection"],
)
async def test_an_error_in_mid_stream_raises_in_the_sdk(
    sdk: AsyncOpenAI, fate: dict, code: str
) -> None:
    stream = await sdk.chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_body=fate
    )
    pieces: list[str] = []
    with pytest.raises(APIError) as raised:
        await read_into(pieces, stream)
    assert raised.value.code == code
    assert "".join(pieces) == tokens(3)


async def read_into(pieces: list[str], stream: AsyncIterator[Any]) -> None:
    async for chunk in stream:
        pieces += [chunk.choices[0].delta.content or ""]


async def test_a_broken_stream_ends_without_done(http: httpx2.AsyncClient) -> None:
    response = await http.post(CHAT, json=chat(stream=True, **BROKEN))
    *_, last = events(response.content)
    assert last["error"]["type"] == "server_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_generation(
    site: Site, http: httpx2.AsyncClient, stream: bool
) -> None:
    before = await site.upstream.idle()
    asking = asyncio.create_task(http.post(CHAT, json=chat(stream=stream, **LONG)))
    await until(lambda: site.upstream.has(active=1), "the generation to run")
    asking.cancel()
    await until(
        lambda: site.upstream.has(active=0, aborted=before.aborted + 1),
        "the generation to be ended",
    )


async def test_a_client_that_leaves_in_mid_stream_ends_the_generation(
    site: Site, sdk: AsyncOpenAI
) -> None:
    before = await site.upstream.idle()
    async with await sdk.chat.completions.create(
        model="sim", messages=HELLO, stream=True, extra_body=LONG
    ) as stream:
        assert [(await anext(stream)).choices[0].delta.content for _ in range(3)] == [
            "",
            " tok0",
            " tok1",
        ]
    await until(
        lambda: site.upstream.has(active=0, aborted=before.aborted + 1),
        "the generation to be ended",
    )


async def test_where_nothing_is_joined_a_last_event_id_hides_nothing(
    http: httpx2.AsyncClient,
) -> None:
    """As a client that reconnects sends it, whose request begins anew."""
    reply = await http.post(
        CHAT, json=chat(stream=True, max_tokens=3), headers={"Last-Event-ID": "50"}
    )
    *_, done = events(reply.content)
    assert done == "[DONE]"
    assert reply.content.startswith(b"id: 1\n")
