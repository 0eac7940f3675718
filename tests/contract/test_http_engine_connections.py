"""The HTTP engine's connections: how they are made, secured, kept, and ended."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.agent.engines.base import EngineBroken, EngineUnreachable
from app.agent.engines.http import pool as http_pool
from tests.contract.engines import Reading, collect, http_engine, job
from tests.contract.scripted_upstream import (
    LAST_CHUNK,
    Exchange,
    ScriptedUpstream,
    chunk,
    head,
    replies,
)

BODY = b'{"a":1}'
Until = Callable[..., Awaitable[None]]
PATIENCE = 10.0  # seconds, for what must come


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    made = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "
        "/CN=localhost"
    )
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [
            "openssl",
            *made.split(),
            "-addext",
            names,
            "-keyout",
            path,
            "-out",
            path.with_suffix(".crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.servers  # openssl
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_an_upstream_whose_certificate_is_trusted_is_asked_over_tls(
    name: str, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))

    async def script(exchange: Exchange) -> None:
        await exchange.stream(b"data: 1\n\n", b"data: 2\n\n" * 50_000)
        await exchange.send(LAST_CHUNK)

    async with (
        ScriptedUpstream(script, tls=tls) as upstream,
        http_engine(upstream.host.replace("127.0.0.1", name)) as engine,
    ):
        for _ in range(2):
            assert (
                await collect(await engine.call(job(stream=True)))
                == b"data: 1\n\n" + b"data: 2\n\n" * 50_000
            )
        assert (upstream.connections, upstream.seen[0].headers["host"]) == (
            1,
            f"{name}:{upstream.port}",
        )


@pytest.mark.servers  # openssl
async def test_a_reader_that_pauses_and_goes_on_gets_every_byte_over_tls(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    body, found = bytes(range(256)) * 20_000, list[bytes]()

    async def take(piece: bytes) -> None:
        found.append(piece)
        await asyncio.sleep(0)

    async with (
        ScriptedUpstream(replies(200, body), tls=tls) as upstream,
        http_engine(upstream.host) as engine,
    ):
        await (await engine.call(job())).relay(take)
        assert await (await engine.call(job())).read() == b"".join(found) == body
        assert upstream.connections == 1


@pytest.mark.servers  # openssl
async def test_an_upstream_whose_certificate_nobody_trusts_is_not_asked(
    tls: ssl.SSLContext,
) -> None:
    async with (
        ScriptedUpstream(replies(200), tls=tls) as upstream,
        http_engine(upstream.host, retries=0) as engine,
    ):
        # as OpenSSL spells it
        refused = (
            rf"127\.0\.0\.1:{upstream.port}: its certificate is refused \(self.signed certificate\)"
        )
        assert re.fullmatch(refused, await engine.check())
        with pytest.raises(EngineUnreachable, match="its certificate is refused"):
            await engine.call(job())
        assert upstream.seen == []


@pytest.mark.servers  # openssl
async def test_an_upstream_whose_certificate_is_another_hosts_is_not_asked(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    upstream = ScriptedUpstream(replies(200), tls=tls, address="127.0.0.2")
    async with upstream, http_engine(upstream.host, retries=0) as engine:
        with pytest.raises(EngineUnreachable, match=r"its certificate is refused .*127\.0\.0\.2"):
            await engine.call(job())


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connection_that_takes_too_long_to_be_one_is_given_up(scheme: str) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # https: connects, and nobody shakes hands
        address = full.getsockname()
        queued = []
        # what no longer fits into its queue never connects
        for _ in range(4 if scheme == "http" else 0):
            queued.append(socket.socket())
            queued[-1].setblocking(False)
            queued[-1].connect_ex(address)
        async with http_engine(
            f"{scheme}://127.0.0.1:{address[1]}", retries=0, connect_timeout=0.1
        ) as engine:
            with pytest.raises(EngineUnreachable, match="no connection in time"):
                await engine.call(job())
        for one in queued:
            one.close()


async def test_a_name_that_is_none_is_said_in_words() -> None:
    async with http_engine("http://no-such-host.invalid", retries=0) as engine:
        with pytest.raises(EngineUnreachable, match=r"^no-such-host.invalid:80: [A-Za-z ]+$"):
            await engine.call(job())


async def test_an_upstream_at_an_address_of_the_newer_kind_is_asked() -> None:
    async with (
        ScriptedUpstream(replies(200), address="::1") as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert (await engine.call(job())).status == 200
        assert upstream.seen[0].headers["host"] == f"[::1]:{upstream.port}"


async def test_a_call_cancelled_while_it_connects_leaves_nothing(tls: ssl.SSLContext) -> None:
    accepted, left = asyncio.Event(), asyncio.Event()

    async def never_shakes_hands(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        accepted.set()
        while await reader.read(4096):
            pass
        left.set()
        writer.close()

    server = await asyncio.start_server(never_shakes_hands, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        http_engine(f"https://127.0.0.1:{port}") as engine,
        asyncio.timeout(PATIENCE),
    ):
        call = asyncio.create_task(engine.call(job()))
        await accepted.wait()
        call.cancel()
        await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_an_idle_connection_is_ended_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "KEEP_ALIVE_SECONDS", 0.05)
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.reply(200)
        await exchange.client_is_gone()
        left.set()

    async with (
        ScriptedUpstream(script, replies(200)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        assert await (await engine.call(job())).read() == b"{}"
        async with asyncio.timeout(PATIENCE):
            await left.wait()
        assert (await engine.call(job())).status == 200
        assert [exchange.connection for exchange in upstream.seen] == [0, 1]


async def test_a_connection_that_is_working_is_not_idle_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_pool, "KEEP_ALIVE_SECONDS", 0.02)

    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await exchange.reply(200)

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        assert await (await engine.call(job())).read() == b"{}"


async def test_a_pause_of_the_reader_is_no_silence_of_the_upstream() -> None:
    found, rested = list[bytes](), asyncio.Event()

    async def take(piece: bytes) -> None:
        found.append(piece)
        await asyncio.sleep(0.2)
        rested.set()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(BODY)
        await rested.wait()
        await exchange.send(chunk(BODY), LAST_CHUNK)

    async with (
        ScriptedUpstream(script) as upstream,
        http_engine(upstream.host, read_timeout=0.05) as engine,
    ):
        relaying = asyncio.create_task((await engine.call(job(stream=True))).relay(take))
        async with asyncio.timeout(PATIENCE):
            await relaying
    assert b"".join(found) == BODY * 2


async def test_an_upstream_waits_for_a_reader_that_does_not_take() -> None:
    part, count, sent = bytes(64 * 1024), 1024, list[int]()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, content_length=str(count * len(part))))
        for number in range(count):
            await exchange.send(part)
            sent.append(number)

    async with ScriptedUpstream(script) as upstream, http_engine(upstream.host) as engine:
        answer = await engine.call(job(stream=True))
        await until_nothing_moves(
            lambda: (len(sent), upstream.seen[0].writer.transport.get_write_buffer_size())
        )
        assert 0 < len(sent) < count
        assert len(await answer.read()) == count * len(part)


async def until_nothing_moves(progress: Callable[[], tuple[int, int]]) -> None:
    """Until so much was sent, and so much waits to be, that is not taken; both ends had many turns
    in between.
    """
    looks = [(0, 0)]
    async with asyncio.timeout(PATIENCE):
        while 0 in looks[-1] or len(set(looks[-10:])) > 1:
            await asyncio.sleep(0.02)
            looks.append(progress())


async def test_the_connection_used_last_is_used_first() -> None:
    both = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        both.set() if len(upstream.seen) == 2 else await both.wait()
        await exchange.reply(200)

    async with (
        ScriptedUpstream(waits, waits, replies(200)) as upstream,
        http_engine(upstream.host) as engine,
    ):
        async with asyncio.timeout(PATIENCE):
            for answer in await asyncio.gather(engine.call(job()), engine.call(job())):
                await answer.read()
        for _ in range(3):
            await (await engine.call(job())).read()
        assert len({exchange.connection for exchange in upstream.seen[2:]}) == 1


async def test_a_large_request_arrives_whole() -> None:
    body = bytes(range(256)) * 65_536  # 16 MiB
    async with ScriptedUpstream(replies(200)) as upstream, http_engine(upstream.host) as engine:
        assert await (await engine.call(job(body=body))).read() == b"{}"
    assert upstream.seen[0].body == body


async def test_an_engine_that_is_closed_ends_what_is_under_way(until: Until) -> None:
    async def hangs(exchange: Exchange) -> None:
        await exchange.stream(BODY)
        await exchange.client_is_gone()

    async with ScriptedUpstream(hangs, Exchange.client_is_gone) as upstream:
        async with http_engine(upstream.host, retries=0) as engine:
            reading = Reading(await engine.call(job(stream=True)))
            assert await reading.next() == BODY
            call = asyncio.create_task(engine.call(job()))
            await until(lambda: len(upstream.seen) == 2)
        with pytest.raises(EngineBroken):
            await reading.end()
        with pytest.raises(EngineUnreachable):
            await call
