"""Whatever an upstream answers after a stream's head has been sent is a valid stream to the SDK of
its endpoint.

The table: endpoint x what arrives x before or after the head. The judges are the SDKs.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest
import pytest_asyncio
from openai import OpenAI

from tests.acceptance.processes import until
from tests.acceptance.services import Gateway
from tests.acceptance.stack import Stack
from tests.contract.scripted_upstream import LAST_CHUNK, Exchange, ScriptedUpstream, head
from tests.numbered import sse

JSON, HTML = "application/json", "text/html; charset=utf-8"
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
WHOLE: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        **CHAT,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
    },
    "/completions": {
        **CHAT,
        "object": "text_completion",
        "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}],
    },
    "/responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "hi", "annotations": []}],
            }
        ],
    },
    "/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}


@dataclass(frozen=True)
class Case:
    """What an upstream answers, and words of it that the client is to see."""

    status: int
    content_type: str
    body: bytes
    words: str


CASES = {
    "a page of HTML": Case(
        504, HTML, b"<html><body>504 Gateway Time-out</body></html>", "Gateway Time-out"
    ),
    "plain text": Case(500, "text/plain", b"something\nwent wrong", "went wrong"),
    "nothing": Case(503, "text/plain", b"", "empty body"),
    "a detail": Case(404, JSON, b'{"detail":"Not Found"}', "Not Found"),
    "an old error of vLLM's": Case(
        400, JSON, b'{"object":"error","message":"too long","code":400}', "too long"
    ),
    "an error of OpenAI's": Case(
        429, JSON, b'{"error": {\n"message": "slow down", "code": "busy"}}', "slow down"
    ),
    "an error that is a text": Case(404, JSON, b'{"error":"model \\"x\\" not found"}', "not found"),
    "an array": Case(200, JSON, b"[1, 2]", "[1, 2]"),
    "a page though all is well": Case(200, HTML, b"<p>hello</p>", "<p>hello</p>"),
    "nothing though all is well": Case(200, JSON, b"", "empty body"),
    "a reply of another API": Case(200, JSON, b'{"data":[1],"object":"list"}', '{"data":[1]'),
    "bytes": Case(200, "application/octet-stream", b"\x00\xff\r\n\r\n", "application/octet-stream"),
    "an error as a stream": Case(
        400, "text/event-stream", sse({"error": {"message": "in a stream"}}), "in a stream"
    ),
    "an error though all is well": Case(
        200, JSON, b'{"error":{"message":"not so well"}}', "not so well"
    ),
    "a body of half its length": Case(200, JSON, b'{"choices": [', "broke off"),
}


class Upstream:
    """Answers with the case that the request's `user` or `metadata` names, once it is released."""

    def __init__(self) -> None:
        self.case = Case(200, JSON, b"", "")
        self.released = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            return await exchange.reply(404)
        await self.released.wait()
        case = self.case
        length = len(case.body) * (2 if case is CASES["a body of half its length"] else 1)
        await exchange.send(
            head(case.status, content_type=case.content_type, content_length=str(length))
            + case.body
        )
        if length > len(case.body):
            exchange.hang_up()


@dataclass
class Site:
    early: Gateway  # it sends the head of a stream at once
    late: Gateway  # it never does before the reply
    upstream: Upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    upstream = Upstream()
    async with (
        ScriptedUpstream(upstream) as server,
        Stack("head", bus="memory", UPSTREAM_RETRIES="0") as stack,
    ):
        model = {"FIRST_OPENAI_MODEL_NAME": "m", "FIRST_OPENAI_HOST": server.host}
        early = await stack.gateway(SSE_HEAD_AFTER_SECONDS="0.05", **model)
        yield Site(early, await stack.gateway(SSE_HEAD_AFTER_SECONDS="0", **model), upstream)


def body_of(path: str) -> dict[str, Any]:
    told = {
        "/completions": {"prompt": "x"},
        "/responses": {"input": "x"},
        "/embeddings": {"input": "x"},
    }
    asks = told.get(path, {"messages": [{"role": "user", "content": "x"}]})
    return {"model": "m", "stream": True, "max_tokens": 5, **asks}


def judged(gateway: Gateway, path: str, begun: Any) -> list[Any]:
    """Return what the SDK makes of the stream, its exception last. `begun` is called once the head
    is there.
    """
    seen: list[Any] = []
    try:
        seen.extend(_stream(gateway, path, begun))
    except (openai.APIError, anthropic.APIError) as error:
        seen.append(error)
    return seen


def _stream(gateway: Gateway, path: str, begun: Any) -> Any:
    asked = {
        name: value
        for name, value in body_of(path).items()
        if name != "max_tokens" or path != "/responses"
    }
    if path == "/messages":
        client = anthropic.Anthropic(base_url=gateway.root, api_key="none", max_retries=0)
        stream = client.messages.create(**asked)
    else:
        sdk = OpenAI(base_url=f"{gateway.root}/v1", api_key="none", max_retries=0)
        create = {
            "/chat/completions": sdk.chat.completions,
            "/completions": sdk.completions,
            "/responses": sdk.responses,
        }
        stream = create[path].create(**asked)  # type: ignore[attr-defined]
    begun()
    return stream


async def asked(site: Site, path: str, case: Case, moment: str) -> list[Any]:
    """Ask, and let the case arrive before or after the head of the stream."""
    loop = asyncio.get_running_loop()
    site.upstream.case, site.upstream.released = case, asyncio.Event()
    if moment == BEFORE:
        site.upstream.released.set()
        return await asyncio.to_thread(judged, site.late, path, lambda: None)
    return await asyncio.to_thread(
        judged, site.early, path, lambda: loop.call_soon_threadsafe(site.upstream.released.set)
    )


BEFORE, AFTER = "before the head", "after the head"
PATHS = ("/chat/completions", "/completions", "/responses", "/messages")


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_sdk_raises_its_error_with_the_upstreams_words(
    site: Site, path: str, name: str, moment: str
) -> None:
    *events, error = await asked(site, path, CASES[name], moment)
    assert isinstance(error, (openai.APIError, anthropic.APIError)), (
        f"the SDK took it for {error!r}"
    )
    assert not isinstance(error, (openai.APIResponseValidationError, openai.APIConnectionError))
    assert not events
    if (
        isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
        and moment == BEFORE
        and CASES[name].status >= 400
    ):
        # the SDKs show no body that is not of their form
        assert error.status_code == CASES[name].status
    else:
        assert CASES[name].words in str(error)


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_whole_reply_is_a_stream(site: Site, path: str, moment: str) -> None:
    events = await asked(
        site,
        path,
        Case(200, JSON, orjson.dumps(WHOLE[path], option=orjson.OPT_INDENT_2), ""),
        moment,
    )
    assert not [event for event in events if isinstance(event, Exception)]
    if path == "/chat/completions":
        assert "".join(event.choices[0].delta.content for event in events) == "hi"
        assert events[-1].choices[0].finish_reason == "stop"
    elif path == "/completions":
        assert "".join(event.choices[0].text for event in events) == "hi"
    elif path == "/responses":
        assert [event.type for event in events] == ["response.created", "response.completed"]
        assert events[-1].response.output_text == "hi"
    else:
        assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        assert [delta.text for delta in deltas if delta.type == "text_delta"] == ["hi"]
        assert [delta.partial_json for delta in deltas if delta.type == "input_json_delta"] == [
            '{"a":1}'
        ]


AS_THEY_CAME = [name for name in CASES if "half" not in name and "stream" not in name]
ERRORS = [name for name in AS_THEY_CAME if CASES[name].status >= 400]


@pytest.mark.parametrize(
    ("path", "name"), [*product(PATHS, ERRORS), *product(["/embeddings"], AS_THEY_CAME)]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_before_the_head_an_error_and_any_reply_without_streams_goes_out_as_it_came(
    site: Site, path: str, name: str
) -> None:
    site.upstream.case = case = CASES[name]
    site.upstream.released.set()
    async with httpx2.AsyncClient(base_url=site.late.root) as http:
        reply = await http.post(f"/v1{path}", json=body_of(path))
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (
        case.status,
        case.body,
        case.content_type,
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_any_other_endpoint_gets_events_too(site: Site) -> None:
    loop = asyncio.get_running_loop()
    for case, words in (
        (CASES["a detail"], b"Not Found"),
        (Case(200, JSON, b'{"data": [1]}', ""), b'{"data":[1]}'),
    ):
        site.upstream.case, site.upstream.released = case, asyncio.Event()
        async with (
            httpx2.AsyncClient(base_url=site.early.root) as http,
            http.stream("POST", "/v1/embeddings", json=body_of("/embeddings")) as reply,
        ):
            loop.call_soon(site.upstream.released.set)
            sent = await reply.aread()
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert words in sent
        assert all(line.startswith((b"data: {", b":")) for line in sent.split(b"\n") if line)


@pytest.mark.asyncio(loop_scope="module")
async def test_comments_between_numbered_events_are_no_events_to_the_sdk(
    memory_stack: Stack,
) -> None:
    """The openai SDK dispatches an empty event at a blank line once an id has come."""
    released = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.method == "GET":
            return await exchange.reply(404)
        chunk = {**CHAT, "object": "chat.completion.chunk"}
        await exchange.stream(
            sse({**chunk, "choices": [{"index": 0, "delta": {"content": "a"}}]}), b": ping\n\n"
        )
        await released.wait()
        end = (
            sse(
                {
                    **chunk,
                    "choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}],
                }
            )
            + b"data: [DONE]\n\n"
        )
        await exchange.send(b"%x\r\n%b\r\n" % (len(end), end), LAST_CHUNK)

    async with ScriptedUpstream(slow) as upstream:
        model = {"FIRST_OPENAI_MODEL_NAME": "m", "FIRST_OPENAI_HOST": upstream.host}
        gateway = await memory_stack.gateway(SSE_KEEPALIVE_SECONDS="0.1", **model)
        messages = [{"role": "user", "content": "x"}]
        asked = {
            "model": "m",
            "stream": True,
            "messages": messages,
            "extra_headers": {"Idempotency-Key": "k", "X-Queue-Updates": "1"},
        }
        async with gateway.openai() as sdk:
            stream = await sdk.chat.completions.create(**asked)
            text = ""
            async for event in stream:
                text += event.choices[0].delta.content or ""
                if text == "a":
                    # comments come meanwhile
                    asyncio.get_running_loop().call_later(0.5, released.set)
        assert text == "ab"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
async def test_a_client_that_leaves_behind_the_last_event_has_completed_its_request(
    memory_stack: Stack, path: str
) -> None:
    released = asyncio.Event()
    usage = (
        {"prompt_tokens": 3, "completion_tokens": 2}
        if path == "/chat/completions"
        else {"input_tokens": 3, "output_tokens": 2}
    )
    last = {
        "/chat/completions": sse(
            {**CHAT, "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
        ),
        "/responses": sse({"type": "response.completed", "response": {"usage": usage}}),
        "/messages": sse({"type": "message_delta", "usage": usage}) + sse({"type": "message_stop"}),
    }[path]

    async def ends_later(exchange: Exchange) -> None:
        if exchange.method == "GET":
            return await exchange.reply(404)
        await exchange.stream(last, b": more\n\n")
        await released.wait()
        end = (
            sse({**CHAT, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"
            if path == "/chat/completions"
            else b": end\n\n"
        )
        await exchange.send(b"%x\r\n%b\r\n" % (len(end), end), LAST_CHUNK)

    async with ScriptedUpstream(ends_later) as upstream:
        model = {"FIRST_OPENAI_MODEL_NAME": "m", "FIRST_OPENAI_HOST": upstream.host}
        gateway = await memory_stack.gateway(**model)
        async with httpx2.AsyncClient(base_url=gateway.root) as http:
            asks = (
                {**body_of(path), "stream_options": {"include_usage": True}}
                if path == "/chat/completions"
                else body_of(path)
            )
            async with http.stream("POST", f"/v1{path}", json=asks) as reply:
                async for piece in reply.aiter_raw():
                    if b"stop" in piece or b"completed" in piece:
                        break
            id_ = reply.headers["x-request-id"]
        await asyncio.sleep(0.5)  # the gateway has seen it leave
        released.set()

        async def found() -> Any:
            async with httpx2.AsyncClient(base_url=gateway.root) as http:
                state = (await http.get(f"/v1/requests/{id_}")).json()
                return state if state["status"] not in ("queued", "running") else None

        await until(found, "the end of the request")
        state = await found()
        assert (state["status"], state["usage"]) == ("completed", usage)

        def lines() -> list[str]:
            return [
                line
                for line in gateway.log.splitlines()
                if f"POST /v1{path}" in line and id_ in line
            ]

        await until(lambda: bool(lines()), "the access line")
        (line,) = lines()
        assert "outcome=completed" in line
        assert "client=gone" not in line
        assert "prompt_tokens=3 completion_tokens=2" in line
