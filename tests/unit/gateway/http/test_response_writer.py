"""Replies on their way to the client: whole or as events, with the head that fits, and errors
wherever they come.
"""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ClientGone, UpstreamUnreachable, WorkerLost
from app.gateway.http.reply_body import assemble_body
from app.gateway.http.response_writer import KEEPALIVE_COMMENT, EventStream, send_reply
from app.openai_api.sse import DONE_EVENT
from app.protocol.records import ReplyRecord
from tests.unit.gateway.calls import CANCELLED_BODY, Fed
from tests.unit.gateway.wire import Client
from tests.unit.scene import settings, turns

LATE = {"SSE_HEAD_AFTER_SECONDS": "15", "SSE_KEEPALIVE_SECONDS": "5"}


def event(number: int) -> bytes:
    return b'data: {"n":%d}\n\n' % number


class Streaming:
    """A call that is being answered as events."""

    def __init__(self, fed: Fed, environment: dict[str, str] | None = None, **options: Any) -> None:
        self.fed = fed
        self.client = Client()
        stream = EventStream(
            fed.call, self.client.send, settings(**(environment or LATE)).gateway, **options
        )
        self.task: asyncio.Task[ReplyRecord] = asyncio.create_task(stream.run())

    async def ended(self) -> Client:
        await self.task
        assert self.client.ended
        return self.client


async def test_a_whole_reply_has_the_upstreams_status_and_head_and_our_id_and_timing():
    fed, client = Fed(stream=False), Client()
    fed.end(
        b'{"a":1}',
        status=201,
        head=(("content-type", "application/json"), ("x-of-upstream", "1")),
        notes=(("queue-ms", "1.5"),),
    )
    final = await send_reply(fed.call, client.send)
    assert (client.status, client.got, final.value) == (201, b'{"a":1}', b'{"a":1}')
    assert client.headers == {
        "content-type": "application/json",
        "x-of-upstream": "1",
        "x-request-id": fed.call.public_id,
        "server-timing": "queue;dur=1.5",
        "content-length": "7",
    }


async def test_a_whole_reply_in_several_records_is_one_body():
    fed, client = Fed(stream=False), Client()
    fed.whole(b"[1,", b"2,", b"3]")
    await send_reply(fed.call, client.send)
    assert (client.got, client.headers["content-length"]) == (b"[1,2,3]", "7")


async def test_a_cancel_behind_half_a_body_is_what_the_client_gets():
    fed, client = Fed(stream=False), Client()
    fed.data(b'{"half', status=200, head=(("content-type", "application/json"),))
    fed.cancelled()
    await send_reply(fed.call, client.send)
    assert (client.status, client.got) == (409, CANCELLED_BODY)


async def test_of_a_reply_that_turns_out_to_be_no_text_the_stream_that_waited_says_where_it_is():
    at = Streaming(Fed(stream=False), sends_head_at_once=True)
    at.fed.end(b"\xff\n\x00", status=200, head=(("content-type", "audio/mpeg"),))
    event = (await at.ended()).got
    said = orjson.loads(event.removeprefix(b"data: "))["error"]["message"]
    assert said.startswith("the reply is audio/mpeg")
    assert f"/v1/requests/{at.fed.call.public_id}/result" in said


async def test_a_stream_is_passed_on_byte_for_byte_as_it_comes():
    at = Streaming(Fed())
    at.fed.data(b": hi\n\n" + event(1))
    await turns()
    assert (at.client.status, at.client.got) == (200, b": hi\n\n" + event(1))
    at.fed.data(event(2))
    at.fed.end(DONE_EVENT)
    client = await at.ended()
    assert client.got == b": hi\n\n" + event(1) + event(2) + DONE_EVENT
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (client.headers["x-accel-buffering"], client.headers["x-request-id"]) == (
        "no",
        at.fed.call.public_id,
    )


class Wire:
    """What a server offers beside `send`; `paused`: it takes nothing just now."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.paused = False
        self.written = 0

    def write(self, data: bytes) -> bool:
        if self.paused:
            return False
        assert self.client is not None
        self.client.got += data
        self.written += 1
        return True


def streaming_to(wire: Wire, fed: Fed, **options: Any) -> Streaming:
    at = Streaming(fed, write_chunk=wire.write, **options)
    wire.client = at.client
    return at


async def test_a_part_goes_straight_to_the_client_while_its_reader_waits():
    wire = Wire()
    at = streaming_to(wire, Fed())
    at.fed.data(event(1))
    await turns()
    at.fed.data(event(2))
    assert at.client.got == event(1) + event(2), "at once"
    wire.paused = True
    at.fed.data(event(3))
    wire.paused = False
    at.fed.data(event(4))
    assert at.client.got == event(1) + event(2), "in order behind what waits"
    await turns()
    at.fed.data(event(5))
    at.fed.end(DONE_EVENT)
    assert (await at.ended()).got == b"".join(map(event, range(1, 6))) + DONE_EVENT
    assert wire.written == 2
    assert at.fed.call.sink is None, "each would hold the other"


async def test_what_goes_straight_to_the_client_is_no_silence():
    wire = Wire()
    at = streaming_to(wire, Fed())
    at.fed.data(event(1))
    for number in (2, 3, 4):
        await asyncio.sleep(4)
        at.fed.data(event(number))
    await asyncio.sleep(6)
    at.fed.end(DONE_EVENT)
    assert (await at.ended()).got == b"".join(
        map(event, range(1, 5))
    ) + KEEPALIVE_COMMENT + DONE_EVENT
    assert wire.written == 3


@pytest.mark.parametrize("options", [{"has_event_ids": True}, {"last_seen_number": 1}])
async def test_what_is_changed_on_its_way_does_not_go_straight(options):
    wire = Wire()
    at = streaming_to(wire, Fed(), **options)
    for number in (1, 2):
        at.fed.data(event(number))
        await turns()
    at.fed.end(DONE_EVENT)
    await at.ended()
    assert wire.written == 0


async def test_an_error_before_the_first_token_has_its_status_and_body():
    at = Streaming(Fed())
    at.fed.fail(UpstreamUnreachable("nobody listens"))
    client = await at.ended()
    assert (client.status, client.headers["content-type"]) == (502, "application/json")
    assert orjson.loads(client.got)["error"]["code"] == "upstream_unreachable"


async def test_what_is_no_event_stream_goes_out_whole():
    at = Streaming(Fed())
    at.fed.whole(b'{"a"', b":1}", status=400)
    client = await at.ended()
    assert (client.status, client.got) == (400, b'{"a":1}')


async def test_a_late_first_record_sends_the_head_and_a_later_error_is_an_event():
    at = Streaming(Fed())
    await asyncio.sleep(14.9)
    assert at.client.status == 0
    await asyncio.sleep(0.2)
    assert (at.client.status, at.client.got) == (200, b"")
    at.fed.fail(UpstreamUnreachable("nobody listens"))
    client = await at.ended()
    ((_, data),) = client.seen_by_eventsource()
    assert orjson.loads(data)["error"]["code"] == "upstream_unreachable"
    assert client.got.endswith(b"\n\n")


async def test_without_an_early_head_an_error_has_its_status_however_late():
    at = Streaming(Fed(), {"SSE_HEAD_AFTER_SECONDS": "0"})
    await asyncio.sleep(500)
    at.fed.fail(UpstreamUnreachable("nobody listens"))
    assert (await at.ended()).status == 502


async def test_silence_is_broken_by_comments():
    at = Streaming(Fed())
    at.fed.data(event(1))
    await asyncio.sleep(11)
    at.fed.end(DONE_EVENT)
    assert (await at.ended()).got == event(1) + KEEPALIVE_COMMENT * 2 + DONE_EVENT
    at = Streaming(Fed(), {"SSE_KEEPALIVE_SECONDS": "0"})
    at.fed.data(event(1))
    await asyncio.sleep(500)
    at.fed.end(DONE_EVENT)
    assert (await at.ended()).got == event(1) + DONE_EVENT


@pytest.mark.parametrize("line", [b"id: 5\n", b"id\n"])
async def test_a_comment_behind_an_upstreams_own_ids_has_no_blank_line(line):
    at = Streaming(Fed())
    at.fed.data(line + event(1))
    await asyncio.sleep(6)
    at.fed.end(DONE_EVENT)
    assert (await at.ended()).got == line + event(1) + KEEPALIVE_COMMENT[:-1] + DONE_EVENT


async def test_an_error_in_the_middle_is_the_last_event():
    at = Streaming(Fed())
    at.fed.data(event(1))
    error = WorkerLost("gone")
    at.fed.end(b"data: " + error.encode_body() + b"\n\n", "failed", code="worker_lost")
    client = await at.ended()
    assert orjson.loads(client.seen_by_eventsource()[-1][1])["error"]["code"] == "worker_lost"
    assert DONE_EVENT not in client.got


async def test_a_cancel_in_the_middle_is_an_event_too():
    at = Streaming(Fed())
    at.fed.data(event(1))
    at.fed.cancelled()
    assert (await at.ended()).got == event(1) + b"data: " + CANCELLED_BODY + b"\n\n"


@given(
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    seen=st.integers(0, 12),
    ids=st.booleans(),
    comments=st.booleans(),
    at_once=st.booleans(),
)
async def test_from_any_event_on_each_comes_once_with_its_number(
    sizes, seen, ids, comments, at_once
):
    at = Streaming(Fed(), has_event_ids=ids, last_seen_number=seen, sends_head_at_once=at_once)
    number = 0
    for size in sizes:
        block = b": hi\n\n" * comments + b"".join(
            event(number + place + 1) for place in range(size)
        )
        number += size
        at.fed.data(block)
        await turns(2)
    at.fed.end(DONE_EVENT)
    client = await at.ended()
    expected = [(str(n), f'{{"n":{n}}}') for n in range(1, number + 1)] + [
        (str(number + 1), "[DONE]")
    ]
    assert client.seen_by_eventsource() == [
        (id_ if ids else "", data) for id_, data in expected[seen:]
    ]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_whole_reply_as_a_stream_is_one_event_and_done(at_once):
    at = Streaming(Fed(stream=False), has_event_ids=True, sends_head_at_once=at_once)
    await asyncio.sleep(6)
    at.fed.whole(b'{"a":1,\n', b'"b":2}')
    client = await at.ended()
    assert client.pieces[0] == KEEPALIVE_COMMENT[:-1], "no blank line where there are ids"
    assert client.seen_by_eventsource() == [("1", '{"a":1,\n"b":2}'), ("2", "[DONE]")]


async def test_a_whole_replys_failure_as_a_stream_is_one_event_without_done():
    at = Streaming(Fed(stream=False), has_event_ids=True, sends_head_at_once=True)
    at.fed.fail(UpstreamUnreachable("nobody listens"))
    client = await at.ended()
    assert [id_ for id_, _ in client.seen_by_eventsource()] == ["1"]
    assert "upstream_unreachable" in client.seen_by_eventsource()[0][1]


async def test_a_whole_reply_from_its_second_event_on_is_done():
    at = Streaming(
        Fed(stream=False), has_event_ids=True, last_seen_number=1, sends_head_at_once=True
    )
    at.fed.whole(b"{}")
    assert (await at.ended()).seen_by_eventsource() == [("2", "[DONE]")]


async def test_a_client_may_see_its_place_until_it_is_answered():
    places = iter(range(9, 0, -1))
    at = Streaming(Fed(), make_queue_comment=lambda: b": place %d\n\n" % next(places))
    await asyncio.sleep(2.5)
    assert (at.client.status, at.client.got) == (200, b": place 9\n\n: place 8\n\n")
    at.fed.claim("w", "")
    await asyncio.sleep(5)
    at.fed.data(event(1))
    at.fed.end(DONE_EVENT)
    client = await at.ended()
    assert client.got.count(b"place") <= 3
    assert client.got.endswith(event(1) + DONE_EVENT)


@pytest.mark.parametrize("members", [{}, {"stream": False}])
async def test_a_client_that_leaves_ends_its_stream(members):
    at = Streaming(Fed(**members), sends_head_at_once=True)
    await turns()
    at.fed.call.mark_client_left()
    with pytest.raises(ClientGone):
        await at.task


def test_the_result_of_a_stream_is_its_whole_text():
    fed = Fed()
    fed.data(event(1))
    fed.end(event(2) + DONE_EVENT)
    body = assemble_body(fed.parts, stream=True)
    assert (body.status, body.value, dict(body.head)) == (
        200,
        event(1) + event(2) + DONE_EVENT,
        {"content-type": "text/event-stream"},
    )


def test_the_result_of_a_stream_that_failed_at_once_is_its_error():
    fed = Fed()
    fed.fail(UpstreamUnreachable("nobody listens"))
    assert assemble_body(fed.parts, stream=True).status == 502


def test_the_result_of_a_stream_that_was_cancelled_tells_it_as_an_event():
    fed = Fed()
    fed.data(event(1))
    fed.cancelled()
    assert (
        assemble_body(fed.parts, stream=True).value
        == event(1) + b"data: " + CANCELLED_BODY + b"\n\n"
    )
    assert assemble_body(fed.parts, stream=True, path="/messages").value == (
        event(1) + b'event: error\ndata: {"type":"error",' + CANCELLED_BODY[1:] + b"\n\n"
    )
