"""Replies of upstreams that do not keep to the form, or that are hostile: what of them passes, and
what they may cost.
"""

import asyncio
import tracemalloc

import pytest

from app.agent.engines.base import EngineSilent, EngineUnreachable
from app.agent.engines.http.answer import MOST_PASSED_BYTES, MOST_PASSED_LINES
from app.errors import ReplyTooLarge, UpstreamInvalidReply
from tests.contract.engines import collect, http_engine, job
from tests.contract.scripted_upstream import (
    Exchange,
    Script,
    ScriptedUpstream,
    chunk,
    head,
    replies,
    sends,
)


@pytest.mark.parametrize("coding", ["none", "UTF-8", "identity", "", "chunked", "gzip-not"])
async def test_a_content_encoding_that_names_no_coding_is_about_nothing(coding: str) -> None:
    script = replies(200, b'{"a":1}', content_encoding=coding)
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert await (await engine.call(job())).read() == b'{"a":1}'
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
async def test_a_coding_that_cannot_be_undone_is_not_tried_again(coding: str) -> None:
    async with (
        ScriptedUpstream(replies(200, b"x", content_encoding=coding)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        with pytest.raises(UpstreamInvalidReply, match="content-encoding is not supported"):
            await engine.call(job())
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 429, 500, 501, 502])
async def test_any_answer_shows_that_a_server_is_there(status: int) -> None:
    async with ScriptedUpstream(replies(status)) as upstream, http_engine(upstream.host) as engine:
        assert await engine.check() == ""


@pytest.mark.parametrize(
    ("status", "words"), [(401, "wants a token"), (307, "redirects"), (503, "answers 503")]
)
async def test_what_shows_that_it_serves_nobody(status: int, words: str) -> None:
    async with ScriptedUpstream(replies(status)) as upstream, http_engine(upstream.host) as engine:
        assert words in await engine.check()


@pytest.mark.parametrize("path", ["", "/openai/deployments/gpt"])
async def test_the_query_of_a_host_goes_with_every_request(path: str) -> None:
    async with ScriptedUpstream(replies(200)) as upstream:
        async with http_engine(f"{upstream.host}{path}?api-version=2024-06-01") as engine:
            await engine.check()
            await (await engine.call(job("/chat/completions?beta=true&a=%20"))).read()
        base = path or "/v1"
        assert [exchange.target for exchange in upstream.seen] == [
            f"{base}/models?api-version=2024-06-01",
            f"{base}/chat/completions?api-version=2024-06-01&beta=true&a=%20",
        ]


async def test_a_read_timeout_is_the_requests_deadline_unless_the_model_says_otherwise() -> None:
    async with ScriptedUpstream(Exchange.client_is_gone) as upstream:
        async with http_engine(upstream.host) as engine:
            assert engine._pool._quiet_at_most * engine._pool._interval > 540
        async with http_engine(upstream.host, read_timeout=0.05) as engine:
            with pytest.raises(EngineUnreachable) as found:
                await engine.call(job())
            assert found.value.is_silent


async def test_a_body_that_is_silent_is_told_from_one_that_is_cut() -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.stream(b"data: 1\n\n")
        await exchange.client_is_gone()

    async with (
        ScriptedUpstream(silent) as upstream,
        http_engine(upstream.host, read_timeout=0.05) as engine,
    ):
        with pytest.raises(EngineSilent):
            await collect(await engine.call(job(stream=True)))


async def test_a_reply_without_end_is_refused_at_its_limit_and_costs_no_more_memory_than_that() -> (
    None
):
    sent = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(head(200, transfer_encoding="chunked"))
        while True:
            await exchange.send(chunk(b" " * 100_000))
            sent += 100_000

    async with ScriptedUpstream(endless) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job())
        tracemalloc.start()
        with pytest.raises(ReplyTooLarge, match="larger than 5000000 bytes"):
            await answer.read(5_000_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 25_000_000  # both ends are in this process


FLOODS = {
    "trailers": b"0\r\n" + b"x-a: b\r\n" * 200_000,
    "one trailer": b"0\r\nx-a: " + b"b" * 2_000_000,
    "a chunk's extension": b"1;" + b"x" * 2_000_000,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_what_is_no_body_has_its_limit_too(name: str) -> None:
    script = sends(head(200, transfer_encoding="chunked"), chunk(b"{}"), FLOODS[name])
    async with (
        ScriptedUpstream(script) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        with pytest.raises(ReplyTooLarge, match="trailers"):
            await (await engine.call(job())).read()


@pytest.mark.parametrize("status", ["600", "999", "099", "000"])
async def test_a_status_that_is_none_is_not_asked_for_again(status: str) -> None:
    script = sends(b"HTTP/1.1 %b Odd\r\nContent-Length: 2\r\n\r\n{}" % status.encode())
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        async with asyncio.timeout(10):
            with pytest.raises(
                UpstreamInvalidReply, match=f"the server of model 'm' .* status {int(status)}"
            ):
                await engine.call(job())
        assert len(upstream.seen) == 1


async def test_a_head_that_is_too_large_is_not_asked_for_again() -> None:
    async with (
        ScriptedUpstream(replies(200, x="y" * 70_000)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        with pytest.raises(ReplyTooLarge, match="head is larger than"):
            await engine.call(job())
        assert len(upstream.seen) == 1


async def test_a_transfer_coding_that_is_not_known_is_not_asked_for_again() -> None:
    script = sends(head(200, transfer_encoding="gzip, chunked"), b"0\r\n\r\n")
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        with pytest.raises(UpstreamInvalidReply, match="transfer-encoding"):
            await engine.call(job())
        assert len(upstream.seen) == 1


async def test_a_list_of_models_without_end_is_no_list() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(head(200, transfer_encoding="chunked"))
        while True:
            await exchange.send(chunk(b" " * 100_000))

    async with ScriptedUpstream(endless) as upstream, http_engine(upstream.host) as engine:
        assert not await engine.continues()


async def test_each_header_for_a_client_comes_once_and_short() -> None:
    lines = b"Retry-After: 1\r\nRetry-After: 2\r\nX-Should-Retry: " + b"y" * 2000 + b"\r\n"
    script = sends(b"HTTP/1.1 200 OK\r\n" + lines * 10 + b"Content-Length: 0\r\n\r\n")
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert (await engine.call(job())).headers == (("retry-after", "1"),)


ODD_TIMES = [
    "Fri, 31 Dec 99999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 +2359",
    "9" * 400,
    "-1",
    "soon",
    "nan",
]


@pytest.mark.parametrize("value", ODD_TIMES)
async def test_a_retry_after_that_cannot_be_kept_is_not_waited_for(value: str) -> None:
    scripts: list[Script] = [replies(503, b"{}", retry_after=value)] * 2
    async with (
        ScriptedUpstream(*scripts) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        assert (await engine.call(job())).status == 503


async def test_headers_for_a_client_are_bounded_and_do_not_name_the_operators_account() -> None:
    many = {f"x_ratelimit_{number}": "v" for number in range(2000)}
    first = {"openai_organization": "acme", "openai_project": "p", "openai_version": "2020"}
    script = replies(200, **first, **many, content_type="application/json")
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job())
        names = [name for name, _ in answer.headers]
        assert len(names) == MOST_PASSED_LINES + 1
        assert {"content-type", "openai-version"} <= set(names)
        assert not {"openai-organization", "openai-project"} & set(names)
    one = {"x_ratelimit_a": "v" * 60_000, "content_type": "text/plain"}
    async with (
        ScriptedUpstream(replies(200, **one)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        answer = await engine.call(job())
        assert sum(len(name) + len(value) for name, value in answer.headers) <= MOST_PASSED_BYTES
        assert dict(answer.headers)["content-type"] == "text/plain"


async def test_a_reply_too_many_answers_nobody() -> None:
    again = asyncio.Event()

    async def twice(exchange: Exchange) -> None:
        await exchange.reply(200, b'{"first":1}')
        again.set()
        await exchange.send(head(200, content_length="12") + b'{"stolen":1}')

    async with (
        ScriptedUpstream(twice, replies(200, b'{"second":1}')) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert await (await engine.call(job())).read() == b'{"first":1}'
        await again.wait()
        assert await (await engine.call(job())).read() == b'{"second":1}'
        assert upstream.connections == 2
