"""When the HTTP engine sends a request again, and when it does not."""

import asyncio
from email.utils import formatdate
from time import time

import pytest

from app.agent.engines.base import EngineUnreachable
from app.agent.engines.retry import FIRST_WAIT
from tests.contract.engines import Waits, http_engine, job
from tests.contract.scripted_upstream import Exchange, ScriptedUpstream, replies, resets, sends


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int, waits: Waits) -> None:
    async with (
        ScriptedUpstream(replies(status), replies(200, b'{"a":1}')) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        assert await (await engine.call(job())).read() == b'{"a":1}'
    assert [exchange.body for exchange in upstream.seen] == [job().body] * 2


@pytest.mark.parametrize("status", [200, 307, 400, 401, 403, 404, 409, 413, 422, 501])
async def test_anything_else_comes_through_at_once(status: int, waits: Waits) -> None:
    async with (
        ScriptedUpstream(replies(status, b'{"a":1}', location="/v1/elsewhere")) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        answer = await engine.call(job())
        assert (answer.status, await answer.read()) == (status, b'{"a":1}')
    assert len(upstream.seen) == 1


async def test_after_the_last_retry_the_upstreams_own_answer_comes_through(waits: Waits) -> None:
    scripts = [replies(500), replies(502), replies(503, b'{"last":1}', x_ratelimit_reset="1s")]
    async with (
        ScriptedUpstream(*scripts) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        answer = await engine.call(job())
        assert (answer.status, await answer.read()) == (503, b'{"last":1}')
        assert answer.headers == (("x-ratelimit-reset", "1s"),)
    assert len(upstream.seen) == 3


async def test_without_retries_the_first_answer_comes_through() -> None:
    async with (
        ScriptedUpstream(replies(500)) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        assert (await engine.call(job())).status == 500
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("retry_after", "7", 7), ("retry_after", "2.5", 2.5), ("retry_after_ms", "1500", 1.5)],
)
async def test_a_retry_after_is_waited_for(
    name: str, value: str, least: float, waits: Waits
) -> None:
    async with (
        ScriptedUpstream(replies(429, **{name: value}), replies(200)) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        assert (await engine.call(job())).status == 200
    assert least <= waits.seconds[0] <= least + FIRST_WAIT


async def test_a_retry_after_may_be_a_date(waits: Waits) -> None:
    async with (
        ScriptedUpstream(
            replies(503, retry_after=formatdate(time() - 60, usegmt=True)), replies(200)
        ) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        assert (await engine.call(job())).status == 200  # its time is over
    async with (
        ScriptedUpstream(
            replies(503, retry_after=formatdate(time() + 3600, usegmt=True))
        ) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        assert (await engine.call(job())).status == 503
    assert len(upstream.seen) == 1


async def test_a_retry_after_beyond_the_longest_wait_comes_through_at_once(waits: Waits) -> None:
    async with (
        ScriptedUpstream(replies(429, b'{"slow":1}', retry_after="11")) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        answer = await engine.call(job())
        assert (answer.status, await answer.read()) == (429, b'{"slow":1}')
        assert answer.headers == (("retry-after", "11"),)
    assert waits.seconds == []


async def test_a_retry_after_beyond_the_deadline_comes_through_at_once(waits: Waits) -> None:
    async with (
        ScriptedUpstream(replies(429, retry_after="5")) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        deadline = asyncio.get_running_loop().time() + 4
        assert (await engine.call(job(deadline=deadline))).status == 429
    assert waits.seconds == []


async def test_an_upstream_that_forbids_a_retry_is_obeyed(waits: Waits) -> None:
    async with (
        ScriptedUpstream(replies(504, x_should_retry="false")) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):
        answer = await engine.call(job())
        assert (answer.status, answer.headers) == (504, (("x-should-retry", "false"),))
    assert len(upstream.seen) == 1


async def test_an_upstream_that_is_not_there_is_unreachable_after_all_retries(
    waits: Waits, refusing_port: int
) -> None:
    async with http_engine(f"http://user:secret@127.0.0.1:{refusing_port}", pause=waits) as engine:
        with pytest.raises(EngineUnreachable) as caught:
            await engine.call(job())
    assert str(caught.value) == f"127.0.0.1:{refusing_port}: Connection refused"
    assert len(waits.seconds) == 2


async def test_an_upstream_that_is_not_there_is_not_waited_for_beyond_the_deadline(
    waits: Waits, refusing_port: int
) -> None:
    async with http_engine(f"http://127.0.0.1:{refusing_port}", pause=waits) as engine:
        with pytest.raises(EngineUnreachable):
            await engine.call(job(deadline=asyncio.get_running_loop().time()))
    assert waits.seconds == []


async def test_an_upstream_that_comes_up_between_two_tries_answers(refusing_port: int) -> None:
    upstream = ScriptedUpstream(replies(200))

    async def comes_up(_seconds: float) -> None:
        await upstream.start(refusing_port)

    async with http_engine(f"http://127.0.0.1:{refusing_port}", pause=comes_up) as engine:
        assert (await engine.call(job())).status == 200
    await upstream.stop()


@pytest.mark.parametrize(
    "ends", [resets, sends(b""), sends(b"HTTP/1.1 2"), sends(b"SSH-2.0-x\r\n\r\n")]
)
async def test_a_connection_that_brings_no_head_is_tried_again_and_counted(
    ends: object, waits: Waits
) -> None:
    async with (
        ScriptedUpstream(ends, replies(200)) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):  # type: ignore[arg-type]
        assert (await engine.call(job())).status == 200
    assert len(waits.seconds) == 1
    async with (
        ScriptedUpstream(ends) as upstream,
        http_engine(upstream.host, pause=waits) as engine,
    ):  # type: ignore[arg-type]
        with pytest.raises(EngineUnreachable, match=upstream.host.removeprefix("http://")):
            await engine.call(job())
    assert len(upstream.seen) == 3


@pytest.mark.parametrize("ends", [resets, sends(b"")])
async def test_a_kept_alive_connection_that_the_upstream_had_closed_is_replaced_without_counting(
    ends: object,
) -> None:
    scripts = [replies(200), ends, replies(200, b'{"second":1}')]
    async with (
        ScriptedUpstream(*scripts) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):  # type: ignore[arg-type]
        await (await engine.call(job())).read()
        assert await (await engine.call(job())).read() == b'{"second":1}'
    assert [exchange.connection for exchange in upstream.seen] == [0, 0, 1]


async def test_a_silent_kept_alive_connection_is_not_replaced() -> None:
    scripts = [replies(200), Exchange.client_is_gone]
    async with (
        ScriptedUpstream(*scripts) as upstream,
        http_engine(upstream.host, read_timeout=0.05) as engine,
    ):
        await (await engine.call(job())).read()
        with pytest.raises(EngineUnreachable):
            await engine.call(job())
    assert len(upstream.seen) == 2
