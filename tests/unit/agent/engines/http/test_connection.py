"""A connection to an upstream: what is a reply, wherever it is cut, when the connection is used
again, and when it is not.
"""

import asyncio
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.engines.base import EngineBroken
from app.agent.engines.http.connection import HEAD_BYTES
from app.agent.engines.http.errors import Stale, UpstreamError
from tests.unit.agent.engines.wire import BODY, CHUNKED, CHUNKS, OK, SIZED, Wire, relayed

PACKED = gzip.compress(BODY)
REPLIES = {
    "a length": SIZED + BODY,
    "chunks": CHUNKED + CHUNKS + b"0\r\n\r\n",
    "chunks and a trailer": CHUNKED + CHUNKS + b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n",
    "interim replies": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: "
    b"</x>\r\n\r\n" + SIZED + BODY,
    "gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED,
    "lines that end in a line feed": b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(BODY) + BODY,
}


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


CUTS = st.lists(st.integers(0, 5000), max_size=8)


@pytest.mark.parametrize("kind", REPLIES)
@given(places=CUTS, whole=st.booleans())
async def test_a_reply_is_the_same_wherever_it_is_cut(
    kind: str, places: list[int], whole: bool
) -> None:
    wire, found = Wire(), list[bytes]()
    task = await wire.asked()
    wire.comes(*cut(REPLIES[kind], places))
    answer = await task
    if whole:
        found = [await answer.read()]
    else:
        await answer.relay(found.append)
    assert (answer.status, b"".join(found)) == (200, BODY)
    assert wire.idle == [wire.connection]
    assert not wire.is_closing()


@pytest.mark.parametrize("kind", REPLIES)
async def test_a_reply_that_comes_byte_by_byte_is_relayed_as_it_comes(kind: str) -> None:
    wire, found = Wire(), list[bytes]()
    task = await wire.asked()
    for byte in REPLIES[kind]:
        wire.comes(bytes([byte]))
        await asyncio.sleep(0)
        if task.done() and not found:
            relaying = await relayed(task.result(), found.append)
            found.append(b"")
    await relaying
    assert b"".join(found) == BODY
    assert len(found) > 1


@given(places=CUTS, pauses=st.lists(st.booleans(), max_size=12))
async def test_no_byte_comes_while_the_reader_asks_for_a_pause(
    places: list[int], pauses: list[bool]
) -> None:
    wire, found, held = Wire(), list[bytes](), asyncio.Event()
    held.set()

    async def over() -> None:
        held.clear()
        await held.wait()

    def take(piece: bytes) -> object:
        assert held.is_set()
        found.append(piece)
        return over() if pauses and pauses.pop() else None

    task = await wire.asked()
    wire.comes(CHUNKED)
    relaying = await relayed(await task, take)  # type: ignore[arg-type]
    for part in cut(CHUNKS + b"0\r\n\r\n", places):
        wire.comes(part)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        held.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await relaying
    assert b"".join(found) == BODY
    assert not wire.is_paused
    assert wire.idle == [wire.connection]


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"HTTP/1.1 2", OK, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", SIZED + BODY],
)
async def test_more_than_a_reply_is_not_taken_for_another_and_the_connection_not_used_again(
    surplus: bytes,
) -> None:
    wire = Wire()
    answer = await wire.answered(SIZED + BODY + surplus)
    assert await answer.read() == BODY
    assert (wire.is_closing(), wire.idle) == (True, [])


async def test_bytes_on_an_idle_connection_end_it() -> None:
    wire = Wire()
    await wire.answered(SIZED + BODY)
    wire.comes(SIZED + BODY)
    assert wire.aborted
    with pytest.raises(Stale):
        await wire.connection.ask(b"x")


@pytest.mark.parametrize(
    "reply",
    [
        SIZED.replace(b"1.1", b"1.0") + BODY,
        SIZED[:-2] + b"Connection: close\r\n\r\n" + BODY,
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_connection_that_the_upstream_will_end_is_not_used_again(reply: bytes) -> None:
    wire = Wire()
    answer = await wire.answered(reply)
    assert await answer.read() == (BODY if answer.status == 200 else b"")
    assert (wire.closed, wire.idle) == (True, [])


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_that_has_no_body_is_whole_with_its_head(status: int) -> None:
    wire = Wire()
    answer = await wire.answered(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert (await answer.read(), wire.idle) == (b"", [wire.connection])


async def test_an_old_server_may_keep_its_connection() -> None:
    wire = Wire()
    await wire.answered(
        SIZED.replace(b"1.1", b"1.0")[:-2] + b"Connection: keep-alive\r\n\r\n" + BODY
    )
    assert wire.idle == [wire.connection]


async def test_an_answer_before_all_of_the_request_is_sent_leaves_no_connection_to_go_on_with() -> (
    None
):
    wire = Wire()
    wire.unsent = 1
    assert await (await wire.answered(SIZED + BODY)).read() == BODY
    assert (wire.closed, wire.idle) == (True, [])


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"SSH-2.0-x\r\n\r\n", "its reply is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "its reply is not HTTP"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
            "it switched protocols",
        ),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "it switched protocols"),
        (OK + b"X: y\r\n" * (HEAD_BYTES // 5), "its reply's head is larger than 65536 bytes"),
        (
            OK + b"X: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
            "its reply's head is larger than 65536 bytes",
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n" * (HEAD_BYTES // 20),
            "its reply's head is larger than 65536 bytes",
        ),
        (
            OK + b"Content-Encoding: br\r\n\r\n",
            "its reply's content-encoding is not supported (br)",
        ),
        (
            OK + b"Content-Encoding: gzip, gzip\r\n\r\n",
            "its reply's content-encoding is not supported (gzip, gzip)",
        ),
        (
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            "its reply's transfer-encoding is not known (gzip, chunked)",
        ),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "its reply is not HTTP"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "its reply is not HTTP"),
    ],
)
@pytest.mark.parametrize("step", [1 << 20, 1 << 12])
async def test_what_is_no_reply_is_refused_in_words(reply: bytes, says: str, step: int) -> None:
    wire = Wire()
    task = await wire.asked()
    wire.comes(*[reply[start : start + step] for start in range(0, len(reply), step)])
    with pytest.raises(UpstreamError, match=says.replace("(", r"\(").replace(")", r"\)")) as caught:
        await task
    assert not isinstance(caught.value, Stale)
    assert wire.aborted


async def test_a_new_connection_that_ends_without_a_byte_has_failed_a_used_one_was_stale() -> None:
    for before, kind in (([], UpstreamError), ([SIZED + BODY], Stale)):
        wire = Wire()
        for reply in before:
            await wire.answered(reply)
        task = await wire.asked()
        wire.connection.connection_lost(None)
        with pytest.raises(
            UpstreamError, match="it closed the connection without a reply"
        ) as caught:
            await task
        assert type(caught.value) is kind
        assert wire.forgotten == [wire.connection]


async def test_a_used_connection_that_ends_within_a_head_has_failed() -> None:
    wire = Wire()
    await wire.answered(SIZED + BODY)
    task = await wire.asked()
    wire.comes(b"HTTP/1.1 2")
    wire.connection.connection_lost(None)
    with pytest.raises(UpstreamError) as caught:
        await task
    assert not isinstance(caught.value, Stale)


async def test_what_came_in_one_piece_with_garbage_is_given_out_before_the_break() -> None:
    wire, found = Wire(), list[bytes]()
    relaying = await relayed(await wire.answered(CHUNKED), found.append)
    wire.comes(b"3\r\nabc\r\nzz\r\n")
    with pytest.raises(EngineBroken, match="cut short or is garbled"):
        await relaying
    assert found == [b"abc"]
