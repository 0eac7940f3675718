"""What the HTTP engine asks of an upstream, where, with which headers; which of the reply's headers
pass; readiness.
"""

import asyncio
from typing import Any

import orjson
import pytest

from app.agent.engines.http import engine as http
from app.agent.engines.http.request import Address
from tests.contract.engines import http_engine, job
from tests.contract.scripted_upstream import Exchange, ScriptedUpstream, replies

HEAD = (("x-llm-gateway-hops", "a,b"), ("openai-beta", "assistants=v2"))


@pytest.mark.parametrize(
    ("host", "authority", "path"),
    [
        ("http://127.0.0.1:8011", "127.0.0.1:8011", "/v1"),
        ("http://127.0.0.1:8011/", "127.0.0.1:8011", "/v1"),
        ("https://api.openai.com/v1/", "api.openai.com", "/v1"),
        ("https://api.groq.com/openai/v1", "api.groq.com", "/openai/v1"),
    ],
)
def test_v1_is_added_only_to_a_host_without_a_path(host: str, authority: str, path: str) -> None:
    address = Address.of(host)
    assert (address.authority, address.path, address.tls) == (
        authority,
        path,
        host.startswith("https:"),
    )


async def test_a_request_goes_out_byte_for_byte_with_its_headers() -> None:
    body = b'{ "model" : "m", "unknown": 1e400 }'
    async with (
        ScriptedUpstream(replies(200)) as upstream,
        http_engine(upstream.host, token="t-1") as engine,
    ):
        await engine.call(job("/responses", body=body, head=HEAD))
    [seen] = upstream.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/responses", body)
    assert (
        seen.headers.items()
        >= {
            "authorization": "Bearer t-1",
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-request-id": "0123",
            **dict(HEAD),
        }.items()
    )


async def test_without_a_token_there_is_no_authorization() -> None:
    async with ScriptedUpstream(replies(200)) as upstream, http_engine(upstream.host) as engine:
        await engine.call(job())
    assert "authorization" not in upstream.seen[0].headers


@pytest.mark.parametrize(("token", "sent"), [("t-1", "Bearer t-1"), ("", "Basic dTpw")])
async def test_credentials_in_the_address_count_where_there_is_no_token(
    token: str, sent: str
) -> None:
    async with (
        ScriptedUpstream(replies(200)) as upstream,
        http_engine(upstream.host.replace("://", "://u:p@"), token=token) as engine,
    ):
        assert (await engine.call(job())).status == 200
    assert upstream.seen[0].headers["authorization"] == sent


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/responses?a=b%20c&d=%2Fe", "/v1/responses?a=b%20c&d=%2Fe"),
        ("/a b#c/é/../d", "/v1/a%20b%23c/%C3%A9/../d"),
    ],
)
async def test_a_path_and_a_query_arrive_as_they_are(path: str, target: str) -> None:
    async with ScriptedUpstream(replies(200)) as upstream, http_engine(upstream.host) as engine:
        await engine.call(job(path))
    assert upstream.seen[0].target == target


async def test_only_the_headers_a_client_is_to_see_pass() -> None:
    passed = {
        "content-type": "application/json",
        "retry-after": "1",
        "retry-after-ms": "900",
        "x-should-retry": "true",
        "x-ratelimit-remaining-tokens": "5",
        "openai-processing-ms": "7",
    }
    held_back = {
        "set-cookie": "a=b",
        "x-request-id": "theirs",
        "server": "x",
        "date": "today",
        "openai-organization": "grüß",
    }
    script = replies(200, **{name.title(): value for name, value in (passed | held_back).items()})
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert dict((await engine.call(job())).headers) == passed


async def test_an_upstreams_cookie_does_not_come_back_with_the_next_request() -> None:
    async with (
        ScriptedUpstream(replies(200, set_cookie="a=b; Path=/")) as upstream,
        # bare addresses get no cookies anyway
        http_engine(upstream.host.replace("127.0.0.1", "localhost")) as engine,
    ):
        for _ in range(2):
            await (await engine.call(job())).read()
    assert ["cookie" in exchange.headers for exchange in upstream.seen] == [False, False]


def only_at(*targets: str) -> Any:
    async def script(exchange: Exchange) -> None:
        path = exchange.target.partition("?")[0]
        await exchange.reply(200 if path in targets else 404, path.encode())

    return script


@pytest.mark.parametrize(("host_path", "root"), [("", ""), ("/openai/v1", "/openai")])
async def test_what_lives_at_the_root_is_found_there_and_remembered(
    host_path: str, root: str
) -> None:
    async with (
        ScriptedUpstream(only_at(f"{root}/tokenize")) as upstream,
        http_engine(upstream.host + host_path) as engine,
    ):
        for query in ("", "?a=1"):
            assert (await engine.call(job(f"/tokenize{query}"))).status == 200
    targets = [f"{root}/v1/tokenize", f"{root}/tokenize", f"{root}/tokenize?a=1"]
    assert [exchange.target for exchange in upstream.seen] == targets


async def test_what_the_upstream_has_under_v1_is_not_looked_for_at_the_root() -> None:
    async with (
        ScriptedUpstream(replies(200), replies(404)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert [(await engine.call(job("/rerank"))).status for _ in range(2)] == [200, 404]
    assert [exchange.target for exchange in upstream.seen] == ["/v1/rerank", "/v1/rerank"]


async def test_what_the_upstream_has_nowhere_is_its_own_404_each_time() -> None:
    async with (
        ScriptedUpstream(only_at("/v1/rerank")) as upstream,
        http_engine(upstream.host) as engine,
    ):
        for _ in range(2):
            answer = await engine.call(job("/score"))
            assert (answer.status, await answer.read()) == (404, b"/score")
        assert (await engine.call(job("/rerank"))).status == 200


async def test_other_paths_are_never_looked_for_at_the_root() -> None:
    async with (
        ScriptedUpstream(only_at("/chat/completions")) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert (await engine.call(job())).status == 404
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("status", "token", "says"),
    [
        (200, "", ""),
        (404, "", ""),
        (405, "", ""),
        (429, "", ""),
        (401, "", "wants a token (401)"),
        (401, "t-1", "refuses the token (401)"),
        (403, "t-1", ""),  # a token that may not list models may still use one
        (308, "", "redirects (308): the host must be its final address"),
        (503, "", "answers 503"),
    ],
)
async def test_readiness_is_what_the_list_of_models_answers(
    status: int, token: str, says: str
) -> None:
    async with (
        ScriptedUpstream(replies(status, location="/elsewhere")) as upstream,
        http_engine(upstream.host, token=token) as engine,
    ):
        reason = await engine.check()
    assert reason == (f"{upstream.host.removeprefix('http://')} {says}" if says else "")
    assert [(exchange.method, exchange.target) for exchange in upstream.seen] == [
        ("GET", "/v1/models")
    ]


async def test_an_upstream_that_is_not_there_is_not_ready(refusing_port: int) -> None:
    async with http_engine(f"http://u:secret@127.0.0.1:{refusing_port}") as engine:
        assert await engine.check() == f"127.0.0.1:{refusing_port}: Connection refused"


async def test_an_upstream_that_speaks_no_tls_is_not_ready() -> None:
    async def in_plain_text(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(in_plain_text, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, http_engine(f"https://127.0.0.1:{port}") as engine:
        assert (await engine.check()).startswith(f"127.0.0.1:{port}: no TLS with it")


async def test_an_upstream_that_does_not_answer_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "CHECK_SECONDS", 0.05)
    async with (
        ScriptedUpstream(Exchange.client_is_gone) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert (await engine.check()).endswith("no byte in time")


VLLM, OTHER = {"id": "m", "owned_by": "vllm"}, {"id": "m", "owned_by": "openai"}


@pytest.mark.parametrize(
    ("listed", "continues"),
    [
        ({"data": [VLLM]}, True),
        ({"data": [OTHER]}, False),
        ({"data": [{"id": "a-lora", "owned_by": "vllm"}]}, True),
        ({"data": [{"id": "another", "owned_by": "vllm"}, OTHER]}, False),
        ({"data": [7, None]}, False),
        ({"data": None}, False),
        ([], False),
    ],
)
async def test_an_upstream_whose_list_names_vllm_can_continue_a_text(
    listed: object, continues: bool
) -> None:
    async with (
        ScriptedUpstream(replies(200, orjson.dumps(listed))) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert await engine.continues() is continues


async def test_an_upstream_without_a_readable_list_cannot_continue_a_text(
    refusing_port: int,
) -> None:
    async with (
        ScriptedUpstream(replies(404, b"<html>")) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert await engine.continues() is False
    async with http_engine(f"http://127.0.0.1:{refusing_port}") as engine:
        assert await engine.continues() is False
