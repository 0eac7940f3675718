"""A client's connection before there is a request: how large its head may be, and how long it may
take.
"""

import asyncio

import pytest
from uvicorn.server import ServerState

from app.gateway.http.asgi import Receive, Scope, Send, get_connection_extension, watch_disconnect
from app.gateway.http.connection import HEAD_TIMEOUT_SECONDS, MAX_HEAD_BYTES, Connection
from tests.unit.gateway.connected import HEAD, Client


@pytest.mark.parametrize("begun", [b"", b"G", HEAD % 1])
async def test_a_head_that_is_not_there_in_time_ends_the_connection(begun: bytes) -> None:
    client = Client()
    await client.send(begun)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS - 0.1)
    assert not client.wire.closed
    await asyncio.sleep(0.2)
    assert (client.wire.closed, client.wire.written, client.asked) == (True, b"", [])


async def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_others() -> None:
    client = Client()
    for _ in range(int(HEAD_TIMEOUT_SECONDS) + 1):
        if not client.wire.closed:
            await client.send(b"A")
        await asyncio.sleep(1)
    assert client.wire.closed


async def test_a_keep_alive_connection_may_idle_but_the_next_head_must_not_stall() -> None:
    client = Client()
    await client.ask(1)
    await client.send(HEAD % 2)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS + 0.1)
    assert (client.asked, client.wire.closed) == (["/1"], True)


async def test_a_request_sent_too_early_and_slowly_does_not_cut_the_reply_before_it() -> None:
    client = Client()
    client.may_answer.clear()
    await client.ask(1)
    await client.send(HEAD % 2)
    await asyncio.sleep(3 * HEAD_TIMEOUT_SECONDS)
    assert not client.wire.closed
    client.may_answer.set()
    await client.send(b"\r\n")
    await asyncio.sleep(0.1)
    assert client.asked == ["/1", "/2"]


async def test_a_head_that_is_too_large_is_refused_at_once_in_whatever_pieces_it_comes() -> None:
    for size in (100, 1000, 2 * MAX_HEAD_BYTES):
        client = Client()
        await client.send(HEAD % 1)
        for _ in range(MAX_HEAD_BYTES // size + 1):
            await client.send(b"a" * size)
        assert client.wire.closed
        assert client.wire.written.startswith(b"HTTP/1.1 431 ")
        assert client.error["code"] == "headers_too_large"
        assert b"x-request-id: err_" in client.wire.written


@pytest.mark.parametrize(
    "head", [b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\na: %b\r\n\r\n"]
)
async def test_a_whole_head_that_is_too_large_is_refused_as_well(head: bytes) -> None:
    client = Client()
    await client.send(head % (b"a" * MAX_HEAD_BYTES))
    assert (client.asked, client.wire.closed) == ([], True)
    assert client.wire.written.startswith(b"HTTP/1.1 431 ")


async def test_a_body_may_be_larger_than_a_head_in_one_read_and_in_several() -> None:
    client = Client()
    size = 2 * MAX_HEAD_BYTES
    await client.send(
        b"POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (2 * size) + b"a" * size
    )
    await client.send(b"a" * size)
    await client.ask(2)
    assert (client.asked, client.wire.closed) == (["/1", "/2"], False)


async def test_each_request_of_a_connection_may_have_a_head_of_its_own() -> None:
    client = Client()
    for number in range(5):
        await client.send(HEAD % number + b"a: " + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\n")
        await client.send(b"\r\n")
    assert (len(client.asked), client.wire.closed) == (5, False)


async def test_what_is_no_http_is_refused_with_an_openai_error() -> None:
    client = Client()
    await client.send(b"hello\r\n\r\n")
    assert (client.wire.closed, client.error["type"]) == (True, "invalid_request_error")
    assert client.wire.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_in_the_middle_of_a_reply_what_is_no_http_ends_it_without_a_word() -> None:
    client = Client()
    client.may_answer.clear()
    await client.ask(1)
    written = client.wire.written
    await client.send(b"\x00\r\n")
    assert (client.wire.closed, client.wire.written) == (True, written)
    client.may_answer.set()


@pytest.mark.parametrize("garbage", [b"\x00\r\n", b"a" * 2 * MAX_HEAD_BYTES])
async def test_nor_is_anything_written_into_it_where_another_request_waits_for_its_end(
    garbage: bytes,
) -> None:
    client = Client()
    client.may_answer.clear()
    await client.ask(1)
    await client.ask(2)
    written = client.wire.written
    await client.send(garbage)
    assert (client.wire.closed, client.wire.written) == (True, written)
    client.may_answer.set()


class Stream(Client):
    """A connection to an application that writes its body in parts, past `send`."""

    async def _answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        ours = get_connection_extension(scope)
        assert ours is not None
        write = ours["write"]
        self.early = write(b"early")
        head = [(b"content-length", b"4")] if scope["path"] == "/9" else []
        await send({"type": "http.response.start", "status": 200, "headers": head})
        self.wire.written = b""
        self.written = [write(b"one")]
        await self.may_answer.wait()
        self.written.append(write(b"two"))
        await send({"type": "http.response.body", "body": b"last"})
        self.late = write(b"late")

    @property
    def connection(self) -> Connection:
        return self._connection


async def test_a_part_is_written_as_a_chunk_of_the_body_that_is_being_sent() -> None:
    client = Stream()
    await client.ask(1)
    await asyncio.sleep(0)
    assert client.written == [True, True]
    assert client.wire.written == b"3\r\none\r\n3\r\ntwo\r\n4\r\nlast\r\n0\r\n\r\n"
    assert (client.early, client.late) == (False, False)


async def test_a_part_is_refused_for_a_sized_body_or_a_slow_left_or_pipelining_client() -> None:
    client = Stream()
    await client.ask(9)
    await asyncio.sleep(0)
    assert (client.written, client.wire.written) == ([False, False], b"last")

    for happens in ("slow", "gone", "again"):
        client = Stream()
        client.may_answer.clear()
        await client.ask(1)
        await asyncio.sleep(0)
        match happens:
            case "slow":
                client.connection.pause_writing()
            case "gone":
                client.connection.connection_lost(None)
            case "again":
                await client.ask(2)
        client.may_answer.set()
        await asyncio.sleep(0)
        assert client.written == [True, False], happens
        client.connection.resume_writing()


class Watching(Client):
    """A connection to an application that waits until its client leaves, or may answer; what it
    reads before is `body`.
    """

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        self.left: list[str] = []
        while (await receive()).get("more_body"):
            pass
        with watch_disconnect(scope, receive, lambda: self.left.append(scope["path"])):
            await self.may_answer.wait()
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", b"0")],
                }
            )
            await send({"type": "http.response.body", "body": b""})


async def test_a_watcher_is_told_once_that_the_client_left_and_never_after_the_end() -> None:
    client = Watching()
    await client.ask(1)
    await asyncio.sleep(0)
    client.may_answer.clear()
    await client.ask(2)
    await asyncio.sleep(0)
    client.leave()
    assert client.left == ["/2"]

    client = Watching()
    await client.ask(1)
    await asyncio.sleep(0)
    client.leave()
    assert client.left == []


async def test_one_that_left_before_anybody_watched_is_told_as_soon_as_one_does() -> None:
    client = Watching()
    client.may_answer.clear()
    client._connection.data_received(HEAD % 1 + b"\r\n")
    client.leave()
    for _ in range(4):
        await asyncio.sleep(0)
    assert (client.asked, client.left) == (["/1"], ["/1"])


async def test_a_large_body_stops_nobody_from_hearing_it() -> None:
    client = Watching()
    client.may_answer.clear()
    size = 200 * 1024
    await client.send(b"POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
    client._connection.data_received(b"a" * size)
    assert client.wire.reads_no_more
    for _ in range(4):
        await asyncio.sleep(0)
    assert (client.asked, client.wire.reads_no_more) == (["/1"], False)


def check_full(client: Client) -> None:
    """Told so with OpenAI's error, and the connection is at its end."""
    assert (client.asked, client.wire.closed, client.error["code"]) == (
        [],
        True,
        "connections_full",
    )
    head = client.wire.written.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"HTTP/1.1 503 Service Unavailable"
    assert {b"retry-after: 1", b"connection: close", b"content-type: application/json"} <= set(head)
    assert b"x-request-id: err_" in client.wire.written


async def test_beyond_uvicorns_limit_a_request_is_refused_until_there_is_room() -> None:
    state = ServerState()
    one = Client(state, limit_concurrency=2)
    await one.ask(1)
    another, third = Client(state, limit_concurrency=2), Client(state, limit_concurrency=2)
    await another.ask(1)
    await asyncio.sleep(0)
    check_full(another)
    another.leave()
    third.leave()
    await one.ask(2)
    assert (one.asked, one.wire.closed) == (["/1", "/2"], False)


async def test_requests_count_as_connections_do() -> None:
    state = ServerState()
    state.tasks.update(asyncio.create_task(asyncio.sleep(1)) for _ in range(3))
    client = Client(state, limit_concurrency=3)
    await client.ask(1)
    await asyncio.sleep(0)
    check_full(client)


async def test_the_body_of_a_request_that_is_refused_is_nobodys() -> None:
    client = Client(limit_concurrency=1)
    await client.send(b"POST /1 HTTP/1.1\r\ncontent-length: 9\r\n\r\nbody")
    await client.send(b" more")
    await asyncio.sleep(0)
    check_full(client)


async def test_a_full_gateway_says_that_it_lives() -> None:
    client = Client(limit_concurrency=1)
    await client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.asked == ["/healthz"]


async def test_without_the_option_there_is_no_limit() -> None:
    state = ServerState()
    clients = [Client(state) for _ in range(100)]
    for client in clients:
        await client.ask(1)
    assert all(client.asked == ["/1"] for client in clients)
