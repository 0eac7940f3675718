"""Upstreams behind a proxy, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; the proxy is a real one,
on a socket.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from app.agent.engines.base import EngineUnreachable
from app.agent.engines.http.engine import HttpEngine
from app.agent.engines.http.proxy import proxy_for
from app.agent.engines.http.request import Address
from app.config.model_entry import ModelEntry
from app.config.settings import load_settings
from tests.contract.engines import job, worker_settings
from tests.contract.scripted_upstream import NO_LINGER, ScriptedUpstream, replies


class SmallProxy:
    """Tunnels and forwards to one upstream, whatever name it is asked for. `heads` are the requests
    that it got.
    """

    def __init__(self, upstream_port: int, refuses: bool = False) -> None:
        self.heads: list[str] = []
        self._upstream_port = upstream_port
        self._refuses = refuses

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self._refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return writer.close()
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")
        else:
            back.write(head.replace(b"http://up.example:8080", b"", 1))
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@asynccontextmanager
async def proxied(
    upstream: ScriptedUpstream, *, refuses: bool = False
) -> AsyncIterator[tuple[SmallProxy, str]]:
    proxy = SmallProxy(upstream.port, refuses)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"http://user:p%40ss@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def engine_of(host: str, **variables: str) -> AsyncIterator[HttpEngine]:
    engine = HttpEngine(
        ModelEntry(id="m", host=host), worker_settings(UPSTREAM_RETRIES="0", **variables)
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def test_a_plain_upstream_is_asked_by_its_whole_address() -> None:
    async with (
        ScriptedUpstream(replies(200, b'{"a":1}')) as upstream,
        proxied(upstream) as (proxy, url),
    ):
        async with engine_of("http://up.example:8080?v=1", HTTP_PROXY=url) as engine:
            assert await (await engine.call(job())).read() == b'{"a":1}'
        (head,) = proxy.heads
        assert head.startswith(
            "POST http://up.example:8080/v1/chat/completions?v=1 HTTP/1.1\r\nHost: "
            "up.example:8080\r\n"
        )
        assert "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head


async def test_a_secured_upstream_is_reached_by_a_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = await _certificate(tmp_path, "up.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with (
        ScriptedUpstream(replies(200, b'{"a":1}'), tls=context) as upstream,
        proxied(upstream) as (proxy, url),
    ):
        async with engine_of("https://up.example", HTTPS_PROXY=url) as engine:
            assert await (await engine.call(job())).read() == b'{"a":1}'
        (head,) = proxy.heads
        assert head.startswith(
            "CONNECT up.example:443 HTTP/1.1\r\nHost: up.example:443\r\nProxy-Authorization: Basic "
        )
        assert upstream.seen[0].target == "/v1/chat/completions"


async def test_a_proxy_that_refuses_is_the_reason_without_its_password() -> None:
    async with (
        ScriptedUpstream(replies(200)) as upstream,
        proxied(upstream, refuses=True) as (_, url),
    ):
        async with engine_of("https://up.example", HTTPS_PROXY=url) as engine:
            with pytest.raises(
                EngineUnreachable, match=r"its proxy refuses the connection .*407"
            ) as found:
                await engine.call(job())
        assert "p@ss" not in str(found.value)
        assert "p%40ss" not in str(found.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there_is_named_as_the_reason(
    scheme: str, refusing_port: int
) -> None:
    async with engine_of(
        f"{scheme}://up.example", **{f"{scheme.upper()}_PROXY": f"127.0.0.1:{refusing_port}"}
    ) as engine:
        assert (
            await engine.check()
            == f"up.example:{443 if scheme == 'https' else 80}: its proxy: Connection refused"
        )
        with pytest.raises(EngineUnreachable, match="its proxy: Connection refused"):
            await engine.call(job())


@pytest.mark.parametrize(
    "reply", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 100_000, None]
)
async def test_a_proxy_that_makes_no_tunnel_is_named_as_the_reason(reply: bytes | None) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reply is None:  # a reset in the middle
            await reader.read(1)
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER
            )
            return writer.transport.abort()
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0)
    async with (
        server,
        engine_of("https://up.example", HTTPS_PROXY=f"127.0.0.1:{port_of(server)}") as engine,
    ):
        assert "its proxy" in await engine.check()
        with pytest.raises(EngineUnreachable, match="its proxy"):
            await engine.call(job())


@pytest.mark.parametrize("status", [407, 502, 504])
async def test_an_upstream_behind_a_proxy_that_cannot_reach_it_is_not_ready(status: int) -> None:
    async with (
        ScriptedUpstream(replies(status)) as it,
        engine_of("http://up.example", HTTP_PROXY=it.host) as engine,
    ):
        assert await engine.check() == f"up.example:80: its proxy answers {status}"


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = [
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    made = await asyncio.create_subprocess_exec(
        "openssl",
        "req",
        *options,
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    return certificate, key


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_proxied"),
    [
        ("http://up.example", "", True),
        ("http://up.example", "*", False),
        ("http://up.example", "up.example", False),
        ("http://up.example", "UP.example.", False),
        ("http://up.example.", "up.example", False),
        ("http://up.example.evil", "up.example", True),
        ("http://up.example", ":80", True),
        ("http://up.example", "10.0.0.0/99", True),
        ("http://110.1.2.3", "10.1.2.3", True),
        ("http://10.1.2.3:81", "10.1.2.3:80", True),
        ("http://[2001:db8::1]", "2001:DB8:0::1", False),
        ("http://[2001:db8::1]", "[2001:db8::1]", False),
        ("http://[2001:db8::1]:81", "[2001:db8:0::1]:81", False),
        ("http://[2001:db8::1]:82", "[2001:db8::1]:81", True),
        ("http://a.up.example", "up.example", False),
        ("http://a.up.example", ".up.example", False),
        ("http://a.up.example", "*.up.example", False),
        ("http://cup.example", "up.example", True),
        ("http://up.example:81", "up.example:81", False),
        ("http://up.example:80", "up.example:81", True),
        ("http://10.1.2.3", "a.example, 10.0.0.0/8", False),
        ("http://10.1.2.3", "10.1.2.3", False),
        ("http://11.1.2.3", "10.0.0.0/8", True),
        ("http://[2001:db8::1]", "2001:db8::/32", False),
        ("http://127.0.0.1:8000", "", False),
        ("http://[::1]:8000", "", False),
        ("http://localhost:8000", "", False),
    ],
)
def test_who_is_asked_without_a_proxy(host: str, no_proxy: str, is_proxied: bool) -> None:
    found = proxy_for(Address.of(host), "proxy.example:3128", "", no_proxy)
    assert (found is not None) == is_proxied
    assert proxy_for(Address.of("https://up.example"), "proxy.example:3128", "", "") is None


def test_the_variables_count_in_lower_case_too() -> None:
    assert (
        load_settings({"https_proxy": "http://proxy:1", "no_proxy": "x"}).worker.https_proxy
        == "http://proxy:1"
    )
    assert (
        load_settings({"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}).worker.https_proxy
        == "http://b"
    )
    assert (
        load_settings({"https_proxy": "http://a", "HTTPS_PROXY": ""}).worker.https_proxy
        == "http://a"
    )
