"""The official SDK, synchronous and asynchronous, through gateway, Kafka and worker to a real model
server (scripts/vllm.sh).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import reduce
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio

from tests.acceptance.asking import HELLO
from tests.acceptance.processes import get_json
from tests.acceptance.services import Gateway
from tests.acceptance.stack import VLLM_MODEL, VLLM_URL, Stack

pytestmark = pytest.mark.servers

GREETING = "Hello! How can I help you today?"  # what the tiny model has learned to answer to hello
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


class Sdk:
    """Calls a method of either client by its name; a stream comes back as the list of its parts."""

    def __init__(self, client: openai.OpenAI | openai.AsyncOpenAI) -> None:
        self._client = client

    async def __call__(self, name: str, **arguments: Any) -> Any:
        method: Any = reduce(getattr, name.split("."), self._client)
        stream = arguments.get("stream", False)
        if isinstance(self._client, openai.OpenAI):
            return await asyncio.to_thread(
                lambda: list(method(**arguments)) if stream else method(**arguments)
            )
        reply = await method(**arguments)
        return [part async for part in reply] if stream else reply

    async def chat(self, **fields: Any) -> Any:
        return await self(
            "chat.completions.create",
            **{"model": VLLM_MODEL, "messages": HELLO, "temperature": 0, **fields},
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    status, _ = await get_json(f"{VLLM_URL}/v1/models")
    assert status == 200, (
        f"no model server at {VLLM_URL} (VLLM_URL): start one (scripts/vllm.sh start)"
    )
    async with Stack("vllm") as stack:
        await stack.worker(VLLM_MODEL, VLLM_URL)
        yield await stack.gateway()


@pytest.fixture(params=["OpenAI", "AsyncOpenAI"])
async def sdk(gateway: Gateway, request: pytest.FixtureRequest) -> AsyncIterator[Sdk]:
    if request.param == "OpenAI":
        with gateway.openai_sync() as client:
            yield Sdk(client)
    else:
        async with gateway.openai() as async_client:
            yield Sdk(async_client)


async def test_a_chat(sdk: Sdk) -> None:
    reply = await sdk.chat()
    assert reply.choices[0].message.content == GREETING
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0


async def test_a_streamed_chat_with_usage(sdk: Sdk) -> None:
    *chunks, last = await sdk.chat(stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == GREETING
    assert len(chunks) > 3
    assert last.choices == []
    assert last.usage == (await sdk.chat()).usage


async def test_a_text_completion(sdk: Sdk) -> None:
    asked = {"model": VLLM_MODEL, "prompt": "hello", "max_tokens": 5, "temperature": 0}
    whole = await sdk("completions.create", **asked)
    chunks = await sdk("completions.create", **asked, stream=True)
    assert whole.usage.completion_tokens == 5
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


async def test_several_choices(sdk: Sdk) -> None:
    reply = await sdk.chat(n=3, temperature=0.01)  # vLLM gives several only where it may sample
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {GREETING}
    chunks = await sdk.chat(n=2, temperature=0.01, stream=True)
    for index in range(2):
        pieces = [
            choice.delta.content or ""
            for chunk in chunks
            for choice in chunk.choices
            if choice.index == index
        ]
        assert "".join(pieces) == GREETING


async def test_a_tool_call(sdk: Sdk) -> None:
    reply = await sdk.chat(messages=WEATHER, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Paris"},
    )
    assert reply.choices[0].finish_reason == "tool_calls"


async def test_a_streamed_tool_call(sdk: Sdk) -> None:
    chunks = await sdk.chat(messages=WEATHER, tools=TOOLS, stream=True)
    parts = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(part.name or "" for part in parts) == "get_weather"
    assert json.loads("".join(part.arguments or "" for part in parts)) == {"city": "Paris"}


async def test_an_answer_in_a_json_schema(sdk: Sdk) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    reply = await sdk.chat(response_format=schema, max_tokens=60)
    assert type(json.loads(reply.choices[0].message.content)["ok"]) is bool


async def test_vllms_own_fields(sdk: Sdk) -> None:
    reply = await sdk.chat(
        extra_body={"structured_outputs": {"choice": ["left", "right"]}, "top_k": 1}
    )
    assert reply.choices[0].message.content in ("left", "right")


async def test_log_probabilities(sdk: Sdk) -> None:
    reply = await sdk.chat(logprobs=True, top_logprobs=2)
    found = reply.choices[0].logprobs.content
    assert "".join(item.token for item in found).startswith(GREETING)
    assert all(len(item.top_logprobs) == 2 for item in found)


async def test_a_streamed_response(sdk: Sdk) -> None:
    events = await sdk(
        "responses.create", model=VLLM_MODEL, input="hello", temperature=0, stream=True
    )
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == GREETING
    )


async def test_the_upstreams_400_is_a_400(sdk: Sdk) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat(max_tokens=0, stream=stream)
        assert "max_tokens must be at least 1" in refused.value.message


async def test_a_path_that_it_has_not_is_its_own_404(gateway: Gateway) -> None:
    body = {"model": VLLM_MODEL, "input": "x"}
    async with gateway.http() as through, httpx2.AsyncClient() as straight:
        ours = await through.post("/v1/ocr", json=body)
        theirs = await straight.post(f"{VLLM_URL}/v1/ocr", json=body)
    assert ours.status_code == theirs.status_code == 404
    assert ours.content == theirs.content


async def test_tokenize_lives_at_its_root(gateway: Gateway) -> None:
    async with gateway.http() as through, httpx2.AsyncClient() as straight:
        counted = await through.post(
            "/v1/tokenize", json={"model": VLLM_MODEL, "prompt": "hello there"}
        )
        theirs = await straight.post(
            f"{VLLM_URL}/tokenize", json={"model": VLLM_MODEL, "prompt": "hello there"}
        )
        back = await through.post(
            "/api/v1/detokenize", json={"model": VLLM_MODEL, "tokens": counted.json()["tokens"]}
        )
    assert counted.content == theirs.content
    assert counted.json()["count"] > 0
    assert back.json()["prompt"] == "hello there"
