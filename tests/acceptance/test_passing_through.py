"""Bytes pass through: what the client sends reaches the upstream, what the upstream says reaches
the client.
"""

from collections.abc import AsyncIterator
from http.client import HTTPConnection

import httpx2
import pytest
from openai import AsyncOpenAI

from tests import numbered
from tests.acceptance.asking import CHAT, HELLO, chat, events
from tests.acceptance.conftest import Site
from tests.acceptance.processes import until

# Spaces, escapes, a number beyond 64 bits, unknown members, a model deeper inside: nobody may tidy
# this up.
ODD_BODY = (
    '{ "metadata":{"model":"sim", "n": 123456789012345678901234567890}, "model" : '
    '"sim",\t"messages":[\n'
    '{"role":"user","content":"caf\\u00e9 \\ud83d\\ude00 ü","name":null}], '
    '"max_tokens":2,"top_k":20,'
    '"structured_outputs":{"regex":"a|b"}, '
    '"chat_template_kwargs":{"enable_thinking":false},"temperature":1.0}'
).encode()


async def test_the_body_reaches_the_upstream_byte_for_byte(
    site: Site, http: httpx2.AsyncClient
) -> None:
    response = await http.post(
        CHAT, content=ODD_BODY, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert response.status_code == 200
    seen = await site.upstream.last()
    assert (seen.path, seen.body) == (CHAT, ODD_BODY)
    assert seen.headers["content-type"] == "application/json"


async def test_a_body_in_chunks_is_taken(site: Site, http: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(ODD_BODY), 50):
            yield ODD_BODY[start : start + 50]

    response = await http.post(CHAT, content=pieces())
    assert response.status_code == 200
    assert (await site.upstream.last()).body == ODD_BODY


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"), [(CHAT, {"messages": HELLO}), ("/v1/completions", {"prompt": "hello"})]
)
async def test_the_reply_reaches_the_client_byte_for_byte(
    site: Site, http: httpx2.AsyncClient, path: str, asked: dict, stream: bool
) -> None:
    body = {
        "model": "sim",
        **asked,
        "stream": stream,
        "max_tokens": 4,
        "stream_options": {"include_usage": True},
    }
    response = await http.post(path, json=body)
    seen = await site.upstream.last()
    headers = {"x-request-id": seen.headers["x-request-id"]}  # the upstream's reply carries it
    async with httpx2.AsyncClient() as client:
        direct = await client.post(site.upstream.url + path, content=seen.body, headers=headers)
    assert response.content == direct.content
    assert response.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "asked"), [(CHAT, {"messages": HELLO}), ("/v1/completions", {"prompt": "hello"})]
)
async def test_a_stream_whose_client_asks_for_no_usage_is_what_the_upstream_sends_to_it(
    site: Site, http: httpx2.AsyncClient, path: str, asked: dict
) -> None:
    body = {
        "model": "sim",
        **asked,
        "stream": True,
        "max_tokens": 4,
        "stream_options": {"include_obfuscation": False},
    }
    response = await http.post(path, json=body)
    seen = await site.upstream.last()
    assert seen.json == {
        **body,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    async with httpx2.AsyncClient() as client:
        heads = {"x-request-id": seen.headers["x-request-id"]}
        assert (
            response.content
            == (await client.post(site.upstream.url + path, json=body, headers=heads)).content
        )
    await until(
        lambda: "completion_tokens=4" in line_of(site, response),
        "its line in the log, with the usage",
    )


def line_of(site: Site, response: httpx2.Response) -> str:
    """What the gateway's log says of a request."""
    return next(
        (
            line
            for line in site.gateway.log.splitlines()
            if response.headers["x-request-id"] in line
        ),
        "",
    )


async def test_every_field_of_the_sdk_arrives(site: Site, sdk: AsyncOpenAI) -> None:
    image = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"},
    }
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
    }
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
    }
    fields = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}],
        "tools": [tool],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": schema,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "seed": 7,
        "stop": ["a", "b"],
        "logit_bias": {"1": -100},
    }
    await sdk.chat.completions.create(model="sim", **fields, extra_body={"top_k": 3})
    assert (await site.upstream.last()).json == {"model": "sim", **fields, "top_k": 3}


@pytest.mark.parametrize("name", ["team/sim-1.5", "nickname", "nick/name"])
async def test_only_the_model_is_renamed_where_the_upstream_calls_it_otherwise(
    site: Site, http: httpx2.AsyncClient, name: str
) -> None:
    body = ODD_BODY.replace(b'"model" : "sim"', b'"model" : "%s"' % name.encode())
    response = await http.post(CHAT, content=body)
    assert response.json()["model"] == name
    assert (await site.upstream.last()).body == ODD_BODY


async def test_each_event_of_a_stream_names_the_model_as_the_client_does(
    http: httpx2.AsyncClient,
) -> None:
    response = await http.post(CHAT, json=chat("nickname", stream=True, max_tokens=3))
    *chunks, done = events(response.content)
    assert done == "[DONE]"
    assert {chunk["model"] for chunk in chunks} == {"nickname"}


async def test_the_upstream_gets_its_own_token_and_never_the_clients_key(site: Site) -> None:
    client = site.gateway.openai(api_key="sk-client")
    await client.chat.completions.create(model="other", messages=HELLO)
    assert (await site.upstream.last()).headers["authorization"] == "Bearer sk-upstream"
    await client.chat.completions.create(model="sim", messages=HELLO)
    seen = await site.upstream.last()
    assert "sk-client" not in str(seen.headers)
    assert "authorization" not in seen.headers


async def test_each_accepted_request_has_an_id_and_says_where_its_time_went(
    http: httpx2.AsyncClient,
) -> None:
    replies = [
        await http.post(CHAT, json=chat(), headers={"x-request-id": "mine"}) for _ in range(3)
    ]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 3
    assert all(id_.startswith("req_") for id_ in ids)
    for reply in replies:
        names = [
            part.strip().partition(";dur=")[0] for part in reply.headers["server-timing"].split(",")
        ]
        assert names == ["queue", "upstream"]


async def test_the_client_s_own_request_id_is_kept_in_the_log(
    site: Site, http: httpx2.AsyncClient
) -> None:
    reply = await http.post(CHAT, json=chat(), headers={"x-request-id": "client-id-7"})
    await until(lambda: "client-id-7" in site.gateway.log, "the request's line in the log")
    line = next(line for line in reversed(site.gateway.log.splitlines()) if "client-id-7" in line)
    assert reply.headers["x-request-id"] in line


async def test_a_connection_serves_one_request_after_another(site: Site) -> None:
    connection = HTTPConnection("127.0.0.1", site.gateway.port)
    sockets = []
    for _ in range(3):
        connection.request(
            "POST", CHAT, b'{"model":"sim","messages":[{"role":"user","content":"hello"}]}'
        )
        assert connection.getresponse().read()
        sockets.append(connection.sock)
    connection.close()
    assert sockets[0] is not None
    assert sockets[0] is sockets[1] is sockets[2]


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_both_base_paths_serve_the_same(site: Site, base: str) -> None:
    client = site.gateway.openai(base_url=site.gateway.root + base)
    reply = await client.chat.completions.create(model="sim", messages=HELLO, max_tokens=2)
    assert reply.choices[0].message.content == numbered.tokens(2)
    assert [model.id async for model in client.models.list()] == ["other", "sim", "team/sim-1.5"]
    assert (await client.models.retrieve("team/sim-1.5")).id == "team/sim-1.5"


async def test_the_model_list_says_how_busy_each_model_is(site: Site) -> None:
    async def is_listed() -> bool:
        model = (await site.gateway.models())["team/sim-1.5"]
        assert model["created"] > 0
        assert {"in_flight", "queue_depth"} <= set(model)
        return (model["object"], model["owned_by"], model["workers"], model["capacity"]) == (
            "model",
            "llm-gateway",
            1,
            32,
        )

    await until(is_listed, "it to be listed with its worker")
