"""What RFC 9110 and RFC 9112 say of a request, by raw sockets against a real uvicorn with our
protocol.
"""

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import BodyTooLarge, GatewayError, InvalidBody, UnsupportedCoding
from app.gateway.http.asgi import Receive, Scope, Send, read_body, send_error, watch_disconnect
from app.gateway.http.connection import Connection
from app.gateway.http.content_coding import decompress_body
from tests.unit.scene import until

BODY = b'{"model": "echo"}'
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
    b"AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
SIZED = b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    BODY[:5],
    len(BODY) - 5,
    BODY[5:],
)


class Site:
    """An application that says what it was asked; `/wait` is answered once released, `/stream` in
    two parts.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.release = asyncio.Event()
        self.left = 0
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, 1_000_000)
        except GatewayError as error:
            return await send_error(send, error, "err_1")
        self.asked.append((scope["method"], scope["path"], body))
        with watch_disconnect(scope, receive, self._count_leaving):
            if scope["path"] == "/stream":
                await self._stream(send)
                return
            if scope["path"] == "/flood":
                await self._flood(send)
                return
            if scope["path"] == "/wait":
                await self.release.wait()
        status = 204 if scope["path"] == "/nothing" else 200
        said = (
            orjson.dumps({"got": body.decode(), "version": scope["http_version"]})
            if status == 200
            else b""
        )
        head = [(b"content-length", b"%d" % len(said))] if said else []
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": said})

    async def _stream(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.release.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _flood(self, send: Send) -> None:
        """Send until the client has been cut off."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.left:
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    def _count_leaving(self) -> None:
        self.left += 1


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    app = Site()
    listening = socket.create_server(("127.0.0.1", 0))
    app.port = listening.getsockname()[1]
    config = uvicorn.Config(
        app, **{"http": Connection, "lifespan": "off", "log_config": None, **options}
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    try:
        yield app
    finally:
        app.release.set()
        server.should_exit = server.force_exit = True
        await serving
        listening.close()


async def exchange(
    port: int, *segments: bytes, half_close: bool = False, wait: bool = True
) -> bytes:
    """Send segments, each once the one before was read, and return all that comes until the server
    closes.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for segment in segments:
        writer.write(segment)
        await writer.drain()
        await asyncio.sleep(0.02)  # a segment of its own
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(-1), 20) if wait else b""
    finally:
        writer.close()


def post(path: bytes, head: bytes, *, version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nHost: gateway\r\n%b" % (path, version, head)


def statuses(reply: bytes) -> list[int]:
    return [int(part[:3]) for part in reply.split(b"HTTP/1.1 ")[1:]]


END = b"GET /end HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("framing", [SIZED, CHUNKED])
@pytest.mark.parametrize("cut", [0, 1, 2, 30])
async def test_an_upgrade_is_ignored_and_the_body_is_read(framing: bytes, cut: int) -> None:
    whole = post(b"/v1", H2C + framing)
    at = len(whole) - len(framing) + framing.index(b"\r\n\r\n") + 4 if cut == 1 else cut * 20
    segments = [whole] if cut == 0 else [whole[:at], whole[at:]]
    async with site() as app:
        reply = await exchange(app.port, *segments, END)
        assert app.asked == [("POST", "/v1", BODY), ("GET", "/end", b"")]
        assert statuses(reply) == [200, 200]


async def test_the_body_of_a_request_with_an_upgrade_is_never_a_request() -> None:
    smuggled = b"GET /admin HTTP/1.1\r\nHost: gateway\r\n\r\n"
    head = H2C + b"Content-Length: %d\r\n\r\n" % len(smuggled)
    async with site() as app:
        await exchange(app.port, post(b"/v1", head), smuggled, END)
        assert app.asked == [("POST", "/v1", smuggled), ("GET", "/end", b"")]


async def test_a_websocket_handshake_is_an_ordinary_request() -> None:
    asks = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "
        b"13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )
    async with site() as app:
        reply = await exchange(
            app.port, b"GET /v1/realtime HTTP/1.1\r\nHost: gateway\r\n" + asks, END
        )
        assert statuses(reply) == [200, 200]
        assert app.asked[0] == ("GET", "/v1/realtime", b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 200),
        (b"GET /a HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", 200),
        (b"GET http://other/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (
            b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
            b"chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /a HTTP/3.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ],
)
async def test_a_head_is_what_the_rfc_says_or_400(request_: bytes, status: int) -> None:
    async with site() as app:
        reply = await exchange(app.port, request_)
        assert statuses(reply) == [status]
        if status == 400:
            assert (
                orjson.loads(reply.rpartition(b"\r\n\r\n")[2])["error"]["type"]
                == "invalid_request_error"
            )
            assert not app.asked


async def test_http_1_0_has_no_chunks_and_ends_with_the_connection() -> None:
    async with site() as app:
        app.release.set()
        reply = await exchange(app.port, b"GET /stream HTTP/1.0\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert body == b"data: 1\n\ndata: 2\n\n"
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        reply = await exchange(
            app.port, post(b"/a", b"Connection: keep-alive\r\n" + SIZED, version=b"1.0")
        )
        assert orjson.loads(reply.partition(b"\r\n\r\n")[2]) == {
            "got": BODY.decode(),
            "version": "1.0",
        }


async def test_a_204_has_no_length() -> None:
    async with site() as app:
        reply = await exchange(
            app.port, b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert reply.startswith(b"HTTP/1.1 204")
        assert b"content-length" not in reply.lower()
        assert b"transfer-encoding" not in reply.lower()


@pytest.mark.parametrize("path", [b"/a", b"/wait", b"/stream"])
async def test_a_client_that_closes_its_sending_side_gets_its_reply(path: bytes) -> None:
    async with site() as app:
        asking = asyncio.create_task(exchange(app.port, post(path, SIZED), half_close=True))
        await until(lambda: bool(app.asked))
        await asyncio.sleep(0.6)  # it has been probed
        app.release.set()
        reply = await asking
        assert statuses(reply)[-1] == 200
        assert app.left <= 1  # at most at the end, when it is over
        if path == b"/stream":
            assert b"data: 2" in reply


@pytest.mark.parametrize("path", [b"/wait", b"/stream"])
async def test_a_client_that_has_gone_is_noticed_although_it_looks_the_same(path: bytes) -> None:
    async with site() as app:
        await exchange(app.port, post(path, SIZED), wait=False)
        await until(lambda: app.left == 1)
        assert app.asked == [("POST", path.decode(), BODY)]


async def test_a_reply_within_the_grace_has_no_interim_response() -> None:
    async with site() as app:
        reply = await exchange(app.port, post(b"/a", SIZED), half_close=True)
        assert statuses(reply) == [200]


async def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stall_timeout_seconds", 0.2)
    async with site() as app:
        with socket.create_connection(("127.0.0.1", app.port)) as client:
            client.sendall(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: app.left == 1)


@pytest.mark.parametrize("coding", [b"gzip", b"x-gzip", b"GZIP"])
async def test_a_gzip_body_is_unpacked(coding: bytes) -> None:
    packed = zlib.compress(BODY, wbits=31)
    async with site() as app:
        head = b"Content-Encoding: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (
            coding,
            len(packed),
        )
        await exchange(app.port, post(b"/a", head + packed))
        assert app.asked == [("POST", "/a", BODY)]


PACKED = zlib.compress(BODY, wbits=31)


@pytest.mark.parametrize(
    ("coding", "body", "error"),
    [
        ("br", BODY, UnsupportedCoding),
        ("gzip, br", BODY, UnsupportedCoding),
        ("gzip", BODY, InvalidBody),
        ("gzip", PACKED[:-9], InvalidBody),
        ("gzip", PACKED * 2, InvalidBody),
        ("gzip", PACKED + b"x", InvalidBody),
        ("gzip", zlib.compress(b" " * 2_000_000, wbits=31), BodyTooLarge),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_refused(
    coding: str, body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await decompress_body(body, coding, 1_000_000)
    assert await decompress_body(BODY, "identity", 1_000_000) == BODY
    assert await decompress_body(zlib.compress(BODY), "deflate", 1_000_000) == BODY


async def test_a_large_body_is_unpacked_in_steps_between_which_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await decompress_body(zlib.compress(b" " * 16_000_000, wbits=31), "gzip", 16_000_000)
    counting.cancel()
    assert turns >= 16_000_000 // (256 * 1024)


async def test_a_bare_uvicorn_ends_the_connection_of_a_request_with_an_upgrade() -> None:
    """Its parser would take the body for the next request."""
    smuggled = b"GET /admin HTTP/1.1\r\nHost: gateway\r\n\r\n"
    async with site(http="httptools") as app:
        reply = await exchange(
            app.port, post(b"/v1", H2C + b"Content-Length: %d\r\n\r\n" % len(smuggled)), smuggled
        )
        assert b"upgrade_refused" in reply
        assert not app.asked


def test_what_is_overridden_of_uvicorn_is_there() -> None:
    """A new uvicorn that does not have these changes what decision 0019 says."""
    for name in (
        "data_received",
        "on_headers_complete",
        "on_message_complete",
        "eof_received",
        "on_response_complete",
    ):
        assert callable(getattr(HttpToolsProtocol, name))
    assert {"chunked_encoding", "expected_content_length", "response_started", "more_body"} <= set(
        RequestResponseCycle.__init__.__code__.co_names
    )
    assert uvicorn.__version__.startswith("0.54.")
