"""How the HTTP engine takes what an upstream sends, however it is cut, and however it ends."""

import asyncio
import gc
import gzip
import zlib

import pytest

from app.agent.engines.base import EngineBroken, EngineUnreachable
from app.errors import UpstreamInvalidReply
from app.openai_api.sse import EventSplitter, split_events
from tests.contract.engines import Reading, collect, http_engine, job
from tests.contract.scripted_upstream import (
    LAST_CHUNK,
    Exchange,
    Script,
    ScriptedUpstream,
    chunk,
    head,
    replies,
    sends,
)

EVENTS = [
    b": a comment\n\n",
    b'data: {"a":1}\n\n',
    b"event: x\r\ndata: one\r\ndata: two\r\n\r\n",
    "data: grüß\n\n".encode(),
    b'data: {"error":{"message":"overloaded"}}\n\n',
]
STREAM = b"".join(EVENTS)
SSE_HEAD = head(200, content_type="text/event-stream", transfer_encoding="chunked")
GZIPPED, DEFLATED = gzip.compress(STREAM), zlib.compress(STREAM)


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
async def test_a_stream_cut_at_any_byte_comes_as_it_was_sent(cut: int) -> None:
    first_part_is_here = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(STREAM[:cut])
        await first_part_is_here.wait()
        await exchange.send(chunk(STREAM[cut:]), LAST_CHUNK)

    splitter = EventSplitter()
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        reading = Reading(await engine.call(job(stream=True)))
        first = await reading.next()
        first_part_is_here.set()
        whole = [splitter.feed(first), splitter.feed(await reading.end())]
    assert first == STREAM[:cut]
    assert split_events(b"".join(whole)) == EVENTS


async def test_a_reply_sent_byte_by_byte_head_and_framing_included_is_the_same_reply() -> None:
    async def script(exchange: Exchange) -> None:
        for byte in SSE_HEAD + chunk(STREAM) + LAST_CHUNK:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)  # lets the client read this byte alone

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job(stream=True))
        assert answer.is_stream
        assert await collect(answer) == STREAM


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [("gzip", GZIPPED), ("deflate", DEFLATED), ("identity", STREAM)],
    ids=["gzip", "deflate", "identity"],
)
async def test_a_compressed_reply_is_decompressed(encoding: str, sent: bytes) -> None:
    script = replies(200, sent, content_encoding=encoding, content_type="text/event-stream")
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert await (await engine.call(job())).read() == STREAM
        answer = await engine.call(job(stream=True))
        assert await collect(answer) == STREAM
        assert dict(answer.headers) == {"content-type": "text/event-stream"}


async def test_a_compressed_stream_is_not_held_back() -> None:
    packer = zlib.compressobj(wbits=31)
    first_is_here = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        flushed = packer.compress(EVENTS[1]) + packer.flush(zlib.Z_SYNC_FLUSH)
        await exchange.send(
            head(200, transfer_encoding="chunked", content_encoding="gzip"), chunk(flushed)
        )
        await first_is_here.wait()
        await exchange.send(chunk(packer.flush()), LAST_CHUNK)

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        reading = Reading(await engine.call(job(stream=True)))
        assert await reading.next() == EVENTS[1]
        first_is_here.set()
        assert await reading.end() == b""


async def test_a_reply_that_only_the_connections_end_ends_is_whole() -> None:
    script = sends(head(200, content_type="application/json"), b'{"a":', b"1}")
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert await (await engine.call(job())).read() == b'{"a":1}'


def broken_off(
    *parts: bytes, then: bytes = b"", by_reset: bool = False
) -> tuple[Script, asyncio.Event]:
    """A script that sends the parts and, once the event is set, `then`, and ends the connection."""
    now = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        await now.wait()
        await exchange.send(then)
        exchange.reset() if by_reset else exchange.hang_up()

    return script, now


CHUNKED, SIZED = (SSE_HEAD, chunk(EVENTS[1])), (head(200, content_length="100"), EVENTS[1])
BROKEN = {
    "reset in a chunked reply": lambda: broken_off(*CHUNKED, by_reset=True),
    "end in a chunked reply": lambda: broken_off(*CHUNKED),
    "end inside a chunk": lambda: broken_off(*CHUNKED, then=b"a\r\nhalf"),
    "a chunk without a length": lambda: broken_off(*CHUNKED, then=b"zz\r\n"),
    "end before the announced length": lambda: broken_off(*SIZED),
    "reset before the announced length": lambda: broken_off(*SIZED, by_reset=True),
    "reset of a reply without a length": lambda: broken_off(head(200), EVENTS[1], by_reset=True),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("read_whole", [True, False])
async def test_a_reply_that_stops_in_its_middle_is_broken(how: str, read_whole: bool) -> None:
    script, now = BROKEN[how]()
    async with (
        ScriptedUpstream(script) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        answer = await engine.call(job(stream=True))
        now.set()
        with pytest.raises(EngineBroken):
            await (answer.read() if read_whole else collect(answer))


@pytest.mark.parametrize("read_whole", [True, False])
async def test_bytes_that_are_not_of_their_content_encoding_are_an_invalid_reply(
    read_whole: bool,
) -> None:
    script, now = broken_off(
        head(200, content_encoding="gzip", content_length="99"), then=b"x" * 99
    )
    async with (
        ScriptedUpstream(script) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        answer = await engine.call(job(stream=True))
        now.set()
        with pytest.raises(UpstreamInvalidReply, match="content-encoding"):
            await (answer.read() if read_whole else collect(answer))


async def test_what_came_before_a_reset_is_given_out_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()  # what earlier tests have left is not of this one
    caplog.clear()
    script, now = broken_off(*CHUNKED, by_reset=True)
    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job(stream=True))
        reading = Reading(answer)
        assert await reading.next() == EVENTS[1]
        now.set()
        with pytest.raises(EngineBroken):
            await reading.end()
        await answer.close()
    del answer, reading
    gc.collect()
    assert caplog.records == []  # asyncio would log an exception that nobody asked for


async def test_a_reply_that_stalls_is_broken_and_the_upstream_is_left() -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(EVENTS[1])
        await exchange.client_is_gone()
        left.set()

    async with (
        ScriptedUpstream(script) as upstream,
        http_engine(upstream.host, read_timeout=0.05) as engine,
    ):
        answer = await engine.call(job(stream=True))
        with pytest.raises(EngineBroken, match="no byte in time"):
            await collect(answer)
        await answer.close()
        async with asyncio.timeout(10):
            await left.wait()


async def test_a_head_that_never_comes_is_not_waited_for_twice() -> None:
    async with (
        ScriptedUpstream(Exchange.client_is_gone) as upstream,
        http_engine(upstream.host, read_timeout=0.05) as engine,
    ):
        with pytest.raises(EngineUnreachable, match="no byte in time"):
            await engine.call(job())
        assert len(upstream.seen) == 1


async def test_closing_an_answer_is_seen_by_the_upstream() -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(EVENTS[1])
        await exchange.client_is_gone()
        left.set()

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job(stream=True))
        reading = Reading(answer)
        assert await reading.next() == EVENTS[1]
        await answer.close()
        async with asyncio.timeout(10):
            await left.wait()
        with pytest.raises(EngineBroken):
            await reading.end()


async def test_a_call_cancelled_before_the_head_is_seen_by_the_upstream() -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        arrived.set()
        await exchange.client_is_gone()
        left.set()

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        call = asyncio.create_task(engine.call(job()))
        async with asyncio.timeout(10):
            await arrived.wait()
            call.cancel()
            await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_an_answer_read_to_its_end_leaves_its_connection_for_the_next() -> None:
    async with ScriptedUpstream(replies(200)) as upstream, http_engine(upstream.host) as engine:
        for _ in range(3):
            answer = await engine.call(job())
            await answer.read()
            await answer.close()
        assert [exchange.connection for exchange in upstream.seen] == [0, 0, 0]


async def test_an_answer_closed_in_its_middle_does_not_leave_its_connection_for_the_next() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(EVENTS[1])
        await exchange.client_is_gone()

    async with (
        ScriptedUpstream(script, replies(200)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        await (await engine.call(job(stream=True))).close()
        assert await (await engine.call(job())).read() == b"{}"
        assert [exchange.connection for exchange in upstream.seen] == [0, 1]


async def test_a_pooled_connection_that_the_upstream_resets_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()  # what earlier tests have left is not of this one
    caplog.clear()
    head_is_here, idle = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(EVENTS[1])
        await head_is_here.wait()
        await exchange.send(LAST_CHUNK)
        await idle.wait()
        exchange.reset()

    async with (
        ScriptedUpstream(script, replies(200)) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        answer = await engine.call(job(stream=True))
        head_is_here.set()
        assert await collect(answer) == EVENTS[1]
        idle.set()
        assert (await engine.call(job())).status == 200
    del answer
    gc.collect()
    assert caplog.records == []
