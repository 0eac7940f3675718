"""Anthropic's SDK at a gateway: ids, models, and the exception that each of our refusals
becomes.
"""

from collections.abc import AsyncIterator

import anthropic
import orjson
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, MessageParam

from tests.acceptance.services import Gateway
from tests.acceptance.stack import Stack
from tests.contract.scripted_upstream import Exchange, ScriptedUpstream

KEY = "sk-of-a-client-0123"
HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
EVENTS = (
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
)


async def answer(exchange: Exchange) -> None:
    """As a server of Anthropic's API does, with an id of its own."""
    if exchange.method == "GET":
        await exchange.reply(404)
    elif orjson.loads(exchange.body).get("stream"):
        events = [
            f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n"
            for event in EVENTS
        ]
        await exchange.stream(b"".join(events))
        await exchange.send(b"0\r\n\r\n")
    else:
        await exchange.reply(
            200, orjson.dumps(MESSAGE), content_type="application/json", request_id="req_theirs"
        )


@pytest.fixture
async def claude(memory_stack: Stack) -> AsyncIterator[Gateway]:
    async with ScriptedUpstream(answer) as upstream:
        model = {"FIRST_OPENAI_MODEL_NAME": "claude", "FIRST_OPENAI_HOST": upstream.host}
        yield await memory_stack.gateway(**model, API_KEYS=KEY)


def sdk_of(gateway: Gateway, key: str = KEY) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=gateway.root, api_key=key, max_retries=0)


async def asked_by(sdk: AsyncAnthropic, model: str = "claude") -> Message:
    return await sdk.messages.create(model=model, max_tokens=9, messages=HELLO)


async def test_a_message_has_the_id_by_which_the_gateway_finds_its_request(claude: Gateway) -> None:
    async with (
        sdk_of(claude) as sdk,
        claude.http(headers={"authorization": f"Bearer {KEY}"}) as http,
    ):
        message = await asked_by(sdk)
        found = await http.get(f"/v1/requests/{message._request_id}")
        assert (found.status_code, found.json()["status"]) == (200, "completed")
        async with sdk.messages.stream(model="claude", max_tokens=9, messages=HELLO) as stream:
            assert await stream.get_final_text() == "hi"
            assert (stream.request_id or "").startswith("req_")


async def test_the_models_are_listed_and_described(claude: Gateway) -> None:
    async with sdk_of(claude) as sdk, claude.openai(api_key=KEY) as other:
        assert [(model.id, model.type) async for model in sdk.models.list(limit=1)] == [
            ("claude", "model")
        ]
        assert (await sdk.models.retrieve("claude")).display_name == "claude"
        assert [model.id async for model in other.models.list()] == ["claude"]


async def test_each_refusal_is_the_sdks_exception_with_our_code(claude: Gateway) -> None:
    async with sdk_of(claude) as sdk, sdk_of(claude, "sk-wrong") as stranger:
        refusals = (
            (asked_by(sdk, "nobody"), anthropic.NotFoundError, "model_not_found"),
            (asked_by(sdk, ""), anthropic.BadRequestError, None),
            (sdk.models.retrieve("nobody"), anthropic.NotFoundError, "model_not_found"),
            (sdk.get("/v1/messages", cast_to=object), anthropic.NotFoundError, "unknown_url"),
            (
                stranger.messages.create(model="claude", max_tokens=9, messages=HELLO),
                anthropic.AuthenticationError,
                "invalid_api_key",
            ),
            (stranger.models.retrieve("claude"), anthropic.AuthenticationError, "invalid_api_key"),
        )
        for asked, kind, code in refusals:
            with pytest.raises(kind) as refused:
                await asked
            assert refused.value.error_code == code
            assert refused.value.type
            assert (refused.value.request_id or "").startswith("err_")
