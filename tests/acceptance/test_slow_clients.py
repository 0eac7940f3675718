"""Clients that send slower than anybody must wait for: nginx holds them, and the gateways never
hear of them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.acceptance.conftest import lists_echo
from tests.acceptance.processes import until
from tests.acceptance.raw import Connection, connected, exchange, request
from tests.acceptance.services import Endpoint, Gateway
from tests.acceptance.stack import Stack

pytestmark = pytest.mark.servers

CLIENTS = 400
PAUSE = 0.2  # seconds between two bytes


@pytest.fixture
async def gateway(memory_stack: Stack) -> Gateway:
    gateway = await memory_stack.gateway()
    await until(lambda: lists_echo(gateway), "the echo model")
    return gateway


@asynccontextmanager
async def dripping(front: Endpoint, begun: bytes) -> AsyncIterator[list["asyncio.Task[bool]"]]:
    """Many clients that have sent so much, and go on byte by byte. Each task ends when its client
    is cut off.
    """
    async with AsyncExitStack() as held:
        connections = [
            await held.enter_async_context(connected(front.port)) for _ in range(CLIENTS)
        ]
        for connection in connections:
            await connection.send(begun)
        tasks = [asyncio.create_task(drip(connection)) for connection in connections]
        yield tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def drip(connection: Connection) -> bool:
    end = asyncio.create_task(connection.ended())
    while not end.done():
        await asyncio.wait([end], timeout=PAUSE)
        await connection.send(b"a")
    return await end


async def test_heads_that_come_byte_by_byte_are_cut_off_and_others_are_served(
    memory_stack: Stack, gateway: Gateway
) -> None:
    front = memory_stack.nginx(gateway)
    async with dripping(front, b"POST /v1/slow HTTP/1.1\r\nhost: localhost\r\na: ") as clients:
        served = 0
        while not all(client.done() for client in clients):
            assert (await exchange(front.port, request())).status == 200
            served += 1
            await asyncio.sleep(PAUSE)
    assert served > 0
    assert "/v1/slow" not in gateway.log


async def test_bodies_that_come_byte_by_byte_reach_no_gateway(
    memory_stack: Stack, gateway: Gateway
) -> None:
    front = memory_stack.nginx(gateway)
    async with dripping(front, request("/v1/slow", length=1_000_000)):
        for _ in range(10):
            assert (await exchange(front.port, request())).status == 200
            await asyncio.sleep(PAUSE)
    assert (await exchange(front.port, request())).status == 200
    assert "/v1/slow" not in gateway.log


async def test_a_gateway_with_as_many_connections_as_it_takes_says_so_until_there_is_room(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway("--limit-concurrency=4")
    await until(lambda: lists_echo(gateway), "the echo model")
    async with AsyncExitStack() as held:
        for _ in range(3):
            await held.enter_async_context(connected(gateway.port))
        async with connected(gateway.port) as connection:
            await connection.send(request())
            answer = await connection.answer()
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (
                503,
                "connections_full",
                "1",
            )
            assert await connection.ended()
        assert (await exchange(gateway.port, request("/healthz", b"", method="GET"))).status == 200

    async def is_served() -> bool:
        return (await exchange(gateway.port, request())).status == 200

    await until(is_served, "the connections to be gone")
