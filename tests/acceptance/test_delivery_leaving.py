"""Clients that leave: what they asked for is ended at once, or, where they may come back, after a
while.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Reading, check_whole_body
from tests.acceptance.services import Endpoint, Gateway, Upstream
from tests.acceptance.stack import Stack

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

SLOTS = 2
GRACE = 3.0  # seconds
LONG = {"max_tokens": 2000, "x_gap": 0.05}


@dataclass
class Door:
    """A gateway, the same behind nginx, and one worker with few slots."""

    upstream: Upstream
    gateway: Gateway
    endpoints: dict[str, Endpoint]
    clients: Clients


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment() -> AsyncIterator[Door]:
    environment = {"WORKER_CONCURRENCY": str(SLOTS), "CANCEL_GRACE_SECONDS": str(GRACE)}
    async with Stack("leaving", **environment) as stack, Clients() as clients:
        upstream = await stack.upstream()
        await stack.worker("sim", upstream)
        gateway = await stack.gateway()
        yield Door(upstream, gateway, {"gateway": gateway, "nginx": stack.nginx(gateway)}, clients)


@pytest_asyncio.fixture(loop_scope="module")
async def door(deployment: Door) -> Door:
    await deployment.upstream.idle()
    # The gateway may still tell the depth that the last test has made.
    await until(lambda: depth(deployment, 0), "the worker to tell of an empty queue")
    return deployment


async def aborted(upstream: Upstream, count: int) -> float:
    """Seconds until so many generations more were ended than when this began."""
    began = time.monotonic()
    await until(lambda: upstream.has(active=0, aborted=count), "the generation to be ended")
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("way", ["gateway", "nginx"])
async def test_a_generation_ends_with_its_client(door: Door, way: str, stream: bool) -> None:
    before = await door.upstream.stats()
    reading = door.clients.post(door.endpoints[way], chat(stream=stream, **LONG))
    await until(lambda: door.upstream.has(active=1), "the generation to run")
    if stream:
        await reading.tokens(2)
    await reading.leave()
    print(
        f"measured: the generation ended after "
        f"{await aborted(door.upstream, before.aborted + 1):.2f} s"
    )


@pytest.mark.parametrize("way", ["gateway", "nginx"])
async def test_what_waits_is_never_run_when_its_client_has_left(door: Door, way: str) -> None:
    endpoint, before = door.endpoints[way], await door.upstream.stats()
    running = [door.clients.post(endpoint, chat(**LONG)) for _ in range(SLOTS)]
    await until(lambda: door.upstream.has(active=SLOTS), "all slots to be taken")
    waiting = [door.clients.post(endpoint, chat(stream=stream, **LONG)) for stream in (True, False)]
    behind = door.clients.post(endpoint, chat(max_tokens=1))
    await until(lambda: depth(door, 3), "all to wait")
    left = door.gateway.log.count("client=gone")
    for reading in waiting:
        await reading.leave()
    await until(
        lambda: door.gateway.log.count("client=gone") == left + 2,
        "the gateway to have seen both leave",
    )
    for reading in running:
        await reading.leave()
    check_whole_body(await behind.end(), 1)
    assert (await door.upstream.idle()).started == before.started + SLOTS + 1


async def depth(door: Door, count: int) -> bool:
    """So many have come to the worker and wait there. If it fell out of its group meanwhile, what
    runs counts as waiting, too.
    """
    models = await door.gateway.models()
    return models["sim"]["queue_depth"] in (count, count + SLOTS)


async def test_with_a_key_the_generation_goes_on_for_a_while(door: Door) -> None:
    before = await door.upstream.stats()
    reading = door.clients.post(door.gateway, chat(stream=True, **LONG), idempotency_key="gone")
    await reading.tokens(2)
    left = time.monotonic()
    await reading.leave()
    await until(
        lambda: door.upstream.has(active=0, aborted=before.aborted + 1),
        "the generation to be ended",
    )
    print(f"measured: ended {time.monotonic() - left:.2f} s after its client had left")
    assert time.monotonic() - left > GRACE


async def outlast_the_grace() -> None:
    """What was to be cancelled is."""
    await asyncio.sleep(GRACE + 0.5)


async def test_who_comes_back_within_the_grace_gets_the_reply(door: Door) -> None:
    body, before = chat(max_tokens=5, x_ttft=60), await door.upstream.stats()
    first = door.clients.post(door.gateway, body, idempotency_key="back")
    await until(lambda: door.upstream.has(active=1), "the generation to run")
    await first.leave()
    again = door.clients.post(door.gateway, body, idempotency_key="back")
    await outlast_the_grace()
    await door.upstream.release()
    check_whole_body(await again.end(), 5)
    stats = await door.upstream.idle()
    assert (stats.started, stats.aborted) == (before.started + 1, before.aborted)


@pytest.mark.parametrize("leaves", ["first", "second"])
async def test_of_two_with_one_key_one_may_leave(door: Door, leaves: str) -> None:
    body, before = chat(max_tokens=5, x_ttft=60), await door.upstream.stats()
    readings: list[Reading] = []
    for _ in range(2):
        readings.append(
            door.clients.post(door.gateway, body, idempotency_key=f"two, {leaves} leaves")
        )
        await until(lambda: door.gateway.answers(len(readings)), "the gateway to have taken it")
    await until(lambda: door.upstream.has(active=1), "the generation to run")
    gone, stays = readings if leaves == "first" else readings[::-1]
    await gone.leave()
    await outlast_the_grace()
    await door.upstream.release()
    check_whole_body(await stays.end(), 5)
    assert (await door.upstream.idle()).started == before.started + 1
