"""Kafka is killed under load and comes back, or stands still for a while: nobody waits blindly, nothing needs a restart."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.processes import Process, get_json, until
from tests.acceptance.reading import Clients, Told, check_whole, check_whole_body, ends
from tests.acceptance.services import Gateway
from tests.acceptance.stack import Stack
from tests.chaos.audit import logged
from tests.chaos.broker import Broker

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

AWAY = 12.0  # seconds until the broker is started again; it listens as many later
ADMITTED = 3.0  # BUS_ADMIT_TIMEOUT_SECONDS
LATER = 2.0  # how much later a busy machine may answer
LINES = 20  # in the log of one process, for the whole of it, beside a line for each request
TOKENS = 120


@dataclass
class Outage:
    """What was seen of one, from the kill to when all is well again."""

    streams: list[Told] = field(default_factory=list)  # under way when it came
    replies: list[Told] = field(default_factory=list)
    expired: Told | None = None  # its deadline came in the middle
    refused: list[tuple[Told, float]] = field(default_factory=list)  # asked meanwhile, with how long the answer took
    looked_up: list[tuple[Told, float]] = field(default_factory=list)
    readiness: list[tuple[int, Any]] = field(default_factory=list)
    of_late_gateway: list[tuple[int, Any]] = field(default_factory=list)
    late_answer: Told | None = None
    afterwards: list[Told] = field(default_factory=list)
    served_by: set[str] = field(default_factory=set)
    late_worker: str = ""
    lines: dict[str, list[str]] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker() -> AsyncIterator[Broker]:
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory))
        await broker.start()
        yield broker
        broker.clear_away()
        await broker.ended()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outage(broker: Broker) -> AsyncIterator[Outage]:
    """One gateway, two workers, requests under way; the broker is killed, asked for in vain, and started again."""
    seen = Outage()
    async with Stack("away", BOOTSTRAP_SERVERS=broker.servers, LOG_FORMAT="json") as stack, Clients() as clients:
        upstream = await stack.upstream(gap=0.2)
        workers = [await stack.worker("sim", upstream) for _ in range(2)]
        gateway = await stack.gateway()
        streams = [clients.post(gateway, chat(stream=True, max_tokens=TOKENS)) for _ in range(8)]
        replies = [clients.post(gateway, chat(max_tokens=TOKENS // 2)) for _ in range(8)]
        expiring = clients.post(gateway, chat(max_tokens=1000), X_Request_Timeout="8")
        for stream in streams:
            await stream.tokens(3)
        await until(lambda: upstream.has(active=17), "all to run")
        pids = {process.name: process.pid for process in stack.processes}
        with new_lines([gateway, *workers], seen):
            broker.kill()
            async with watched(gateway, seen.readiness), asking(clients, gateway, streams[0].told.public_id, seen):
                await asyncio.sleep(AWAY / 2)
                late_gateway = await stack.gateway(ready=False)
                late_worker = await stack.worker("sim", upstream, ready=False)
                async with watched(late_gateway, seen.of_late_gateway):
                    await until(lambda: bool(seen.of_late_gateway and seen.of_late_gateway[-1][0]), "the gateway to listen")
                    seen.late_answer = await clients.post(late_gateway, chat()).end()
                    await asyncio.sleep(AWAY / 2)
                    await broker.start()
                    for process in (gateway, late_gateway, late_worker):
                        await process.ready()
            seen.streams, seen.replies, seen.expired = await ends(streams), await ends(replies), await expiring.end()
            seen.late_worker = late_worker.owners["sim"]
            await until(lambda: serves(clients, [gateway, late_gateway], seen), "every worker to serve")
        for late in (late_gateway, late_worker):
            seen.lines[late.name] = late.log.splitlines()
        seen.restarted = [process.name for process in stack.processes if pids.get(process.name, process.pid) != process.pid]
        yield seen


@contextmanager
def new_lines(processes: list[Any], seen: Outage) -> Iterator[None]:
    """Keeps what they log meanwhile."""
    before = {process.name: len(process.log.splitlines()) for process in processes}
    yield
    for process in processes:
        seen.lines[process.name] = process.log.splitlines()[before[process.name] :]
