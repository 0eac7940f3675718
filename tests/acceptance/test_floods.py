"""Many streams, many waiting requests, clients that do not read, replies that nobody awaits: all in
bounded memory.

Run with -s it prints the figures.
"""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.acceptance.asking import chat
from tests.acceptance.processes import PATIENCE, Process, until
from tests.acceptance.raw import request
from tests.acceptance.reading import Clients, check_whole_body, ends
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack
from tests.numbered import tokens

pytestmark = pytest.mark.servers

IDLE, QUEUED = 2_000, 5_000
LONG = {"x_ttft": 600}  # seconds to the first token
PER_IDLE_STREAM, PER_QUEUED_REQUEST = 48 * 1024, 32 * 1024  # bytes of the gateway's memory, at most
SLACK = 8 * 1024 * 1024  # bytes by which a process may grow for other reasons
FILES = QUEUED + 500  # that a process must be able to open


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Each connection is an open file, here and in the gateway, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= FILES, f"a process may open {hard} files only; {FILES} are needed (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(process: Process) -> int:
    """Bytes that the process has in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def warm_up(gateway: Gateway) -> int:
    """The gateway's memory after some use."""
    async with Clients() as clients:
        for stream in (True, False):
            await ends([clients.post(gateway, chat(stream=stream)) for _ in range(100)])
    return memory(gateway)


@asynccontextmanager
async def asking(gateway: Gateway, count: int, **fields: Any) -> AsyncIterator[None]:
    """So many clients that have asked and do nothing further; they leave at the end."""
    asked = request(body=orjson.dumps(chat(**fields)))
    writers: list[asyncio.StreamWriter] = []
    try:
        while len(writers) < count:
            wave = range(min(200, count - len(writers)))
            for _, writer in await asyncio.gather(
                *(asyncio.open_connection("127.0.0.1", gateway.port) for _ in wave)
            ):
                writer.write(asked)
                writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.close()


async def model_says(gateway: Gateway, **numbers: int) -> bool:
    card = (await gateway.models())["sim"]
    return all(card[name] == number for name, number in numbers.items())


async def all_but_one_wait(gateway: Gateway) -> bool:
    """Under such load the worker may fall out of its group; then the one that runs counts among
    those that wait, too.
    """
    card = (await gateway.models())["sim"]
    return card["in_flight"] == 1 and card["queue_depth"] in (QUEUED - 1, QUEUED)


async def test_two_thousand_idle_streams_are_held_in_bounded_memory(stack: Stack) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream, WORKER_CONCURRENCY=str(IDLE))
    gateway = await stack.gateway(
        SSE_HEAD_AFTER_SECONDS="1", SSE_KEEPALIVE_SECONDS="2", MAX_QUEUE_DEPTH=str(IDLE)
    )
    before = await warm_up(gateway)
    async with Clients() as clients, asking(gateway, IDLE - 1, stream=True, **LONG):
        last = clients.post(gateway, chat(stream=True, **LONG))
        await until(lambda: upstream.has(active=IDLE), "all to run", 2 * PATIENCE)
        await until(lambda: len(last.told.comments) >= 2, "keep-alive comments")
        each = (memory(gateway) - before) / IDLE
        print(f"{IDLE} idle streams: {each / 1024:.1f} KiB of the gateway's memory each")
        await last.leave()
    await until(
        lambda: upstream.has(active=0, aborted=IDLE),
        "all to be ended with their clients",
        2 * PATIENCE,
    )
    await until(lambda: model_says(gateway, in_flight=0), "the worker to have free slots")
    assert each < PER_IDLE_STREAM
    await check_serves(gateway)


async def test_five_thousand_queued_requests_are_held_in_bounded_memory(stack: Stack) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream, WORKER_CONCURRENCY="1")
    gateway = await stack.gateway(MAX_QUEUE_DEPTH=str(2 * QUEUED))
    before = await warm_up(gateway)
    completed = (await upstream.idle()).completed
    async with asking(gateway, QUEUED, **LONG):
        await until(lambda: all_but_one_wait(gateway), "all to wait", 3 * PATIENCE)
        each = (memory(gateway) - before) / QUEUED
        print(f"{QUEUED} queued requests: {each / 1024:.1f} KiB of the gateway's memory each")
    await until(
        lambda: model_says(gateway, in_flight=0, queue_depth=0), "the queue to empty", 2 * PATIENCE
    )
    assert each < PER_QUEUED_REQUEST
    await until(lambda: upstream.has(active=0, completed=completed), "the one that ran to be ended")
    await check_serves(gateway)


async def check_serves(gateway: Gateway) -> None:
    async with Clients() as clients:
        check_whole_body(await clients.post(gateway, chat(max_tokens=2)).end(), 2)


SLOW = 4
LENGTH = 12_000  # tokens, some 2.6 MB


async def test_clients_that_do_not_read_hold_little_and_then_miss_nothing(stack: Stack) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream)
    gateway = await stack.gateway()
    before = await warm_up(gateway)
    connections = [connection_without_room(gateway.port) for _ in range(SLOW)]
    for connection in connections:
        connection.sendall(request(body=orjson.dumps(chat(stream=True, max_tokens=LENGTH))))
    await until(
        lambda: has_completed(upstream, 200 + SLOW),
        "the whole replies to be in the log",
        3 * PATIENCE,
    )
    held = memory(gateway) - before
    bodies = await asyncio.gather(
        *(asyncio.to_thread(read_stream, connection) for connection in connections)
    )
    size = sum(map(len, bodies))
    print(
        f"{SLOW} clients that did not read {size / 2**20:.1f} MiB: {held / 2**20:.1f} MiB "
        f"of the gateway's memory in all"
    )
    assert held < min(SLACK, size / 2)
    for body in bodies:
        assert text_of(body) == tokens(LENGTH)
        assert body.count(b"data: [DONE]") == 1


async def has_completed(upstream: Upstream, count: int) -> bool:
    return (await upstream.stats()).completed == count


def connection_without_room(port: int) -> socket.socket:
    """Its system takes only a little until somebody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", port))
    return connection


def read_stream(connection: socket.socket) -> bytes:
    """All that comes until the last chunk; closes the connection. With the little room that it had,
    the system may fall back to 2 KB in each fifth of a second: 288 s for what takes 0.2.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with connection:
        body = bytearray()
        while not body.endswith(b"\r\n0\r\n\r\n"):
            data = connection.recv(1 << 20)
            assert data, "the connection ended before the reply"
            body += data
    return bytes(body)


def text_of(body: bytes) -> str:
    lines = (line[6:] for line in body.splitlines() if line.startswith(b"data: {"))
    choices = [choice for line in lines for choice in orjson.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


ABANDONED = 300


async def test_replies_to_a_gateway_that_is_gone_cost_nobody_anything(stack: Stack) -> None:
    upstream = await stack.upstream()
    worker = await stack.worker("sim", upstream, WORKER_CONCURRENCY=str(2 * ABANDONED))
    # so the other gateway gets all of them to see
    one_partition = {"KAFKA_RESPONSE_PARTITIONS": "1"}
    mortal = await stack.gateway(**one_partition)
    other = await stack.gateway(**one_partition)
    before = await warm_up(other)
    of_worker, lines = memory(worker), len(other.log.splitlines())
    async with asking(mortal, ABANDONED, stream=True, max_tokens=100, x_gap=1):
        await until(lambda: upstream.has(active=ABANDONED), "all to run")
        mortal.kill()
        await check_serves(other)
        await upstream.hurry()
    await until(
        lambda: has_completed(upstream, 200 + 1 + ABANDONED),
        "every reply to be complete",
        2 * PATIENCE,
    )
    await until(lambda: model_says(other, in_flight=0), "the worker to have free slots")
    grown = memory(other) - before, memory(worker) - of_worker
    print(
        f"{ABANDONED} abandoned replies: other gateway {grown[0] / 2**20:.1f} MiB, worker "
        f"{grown[1] / 2**20:.1f} MiB more"
    )
    assert grown[0] < SLACK
    assert grown[1] < 2 * SLACK
    assert [line for line in other.log.splitlines()[lines:] if "app.access" not in line] == []
    await check_serves(other)
