"""A request that is answered before its body has come: the rest has as much time as a body has, and
not more.
"""

import asyncio

import pytest

from app.gateway.http.asgi import BODY_TIMEOUT_SECONDS
from app.gateway.http.connection import HEAD_TIMEOUT_SECONDS
from tests.unit.gateway.connected import HEAD, Client

UNREAD = b"POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
IN_CHUNKS = b"POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1000\r\n"


async def drip(client: Client, data: bytes, most: float) -> float:
    """Sends it again and again, a second between, and returns after how many seconds the gateway
    has hung up.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not client.wire.closed and loop.time() < began + most:
        await client.send(data)
        await asyncio.sleep(1)
    return loop.time() - began


@pytest.mark.parametrize("head", [UNREAD, IN_CHUNKS])
async def test_a_body_that_comes_byte_by_byte_behind_its_answer_is_cut_off(head: bytes) -> None:
    client = Client()
    await client.send(head)
    assert client.wire.written.endswith(b"ok")
    assert await drip(client, b"a", 3 * BODY_TIMEOUT_SECONDS) <= BODY_TIMEOUT_SECONDS + 1
    assert client.wire.closed


async def test_a_body_that_stops_behind_its_answer_is_cut_off() -> None:
    client = Client()
    await client.send(UNREAD)
    await client.send(b"a")
    await asyncio.sleep(BODY_TIMEOUT_SECONDS + 1)
    assert client.wire.closed


@pytest.mark.parametrize(
    ("head", "rest"), [(UNREAD, b"a" * 1000), (IN_CHUNKS, b"a" * 0x1000 + b"\r\n0\r\n\r\n")]
)
async def test_behind_the_body_of_an_answered_request_comes_the_next_one_or_the_end(
    head: bytes, rest: bytes
) -> None:
    client = Client(timeout_keep_alive=100)
    await client.send(head)
    await client.send(rest[:1])
    await client.send(rest[1:])
    await asyncio.sleep(99)
    assert not client.wire.closed
    await client.ask(2)
    assert client.asked == ["/1", "/2"]

    client = Client(timeout_keep_alive=100)
    await client.send(head)
    await client.send(rest)
    await asyncio.sleep(101)
    assert client.wire.closed


async def test_a_reply_to_what_came_with_the_end_of_an_answered_request_is_not_cut() -> None:
    client = Client(timeout_keep_alive=5)
    await client.send(UNREAD)
    client.may_answer.clear()
    await client.send(b"a" * 1000 + HEAD % 2 + b"\r\n")
    await asyncio.sleep(100)
    assert (client.asked, client.wire.closed) == (["/1", "/2"], False)
    client.may_answer.set()


async def test_empty_lines_between_two_requests_keep_no_connection_open() -> None:
    client = Client(timeout_keep_alive=100)
    await client.ask(1)
    assert await drip(client, b"\r\n", 3 * HEAD_TIMEOUT_SECONDS) <= HEAD_TIMEOUT_SECONDS + 1
    assert client.wire.closed


async def test_a_connection_that_is_to_be_closed_is_first_read_to_its_client_s_end() -> None:
    """Else the client's system takes the answer for lost."""
    client = Client(timeout_keep_alive=100)
    await client.send(UNREAD.replace(b"host: x", b"host: x\r\nconnection: close"))
    assert client.wire.written.endswith(b"ok")
    assert (client.wire.ended, client.wire.closed) == (True, False)
    await client.send(b"a" * 1000 + HEAD % 2 + b"\r\n")
    assert client.asked == ["/1"]
    assert await drip(client, b"a", 300) <= 101
    assert client.wire.closed


async def test_behind_a_whole_body_a_connection_that_is_to_be_closed_is_closed_at_once() -> None:
    client = Client()
    await client.send(UNREAD.replace(b"host: x", b"host: x\r\nconnection: close") + b"a" * 1000)
    assert (client.wire.ended, client.wire.closed) == (False, True)
