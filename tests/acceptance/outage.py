"""A deployment whose broker is killed under load and started again, and what everybody saw of
that.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.acceptance.asking import chat
from tests.acceptance.processes import get_json, until
from tests.acceptance.reading import Clients, Reading, Told, ends, stalls
from tests.acceptance.services import Gateway, Upstream, Worker
from tests.acceptance.stack import Stack
from tests.chaos.broker import Broker

DEADLINE = 12  # seconds, of a request whose end has to come while the broker is away
GAP = 0.2  # seconds between two tokens
# of the streams, which outlast the broker's absence; replies have half of that, which do not
TOKENS = 150

ADMITTED_WITHIN = 3  # seconds: BUS_ADMIT_TIMEOUT_SECONDS
ENVIRONMENT = {"BUS_ADMIT_TIMEOUT_SECONDS": str(ADMITTED_WITHIN)}

Seen = TypeVar("Seen")
Answer = tuple[Told, float]  # with how many seconds it took
Readiness = tuple[int, Any]  # status and document of /readyz


@dataclass
class Outage:
    lasted: float  # seconds, until everything was ready again
    streams: list[Told]  # these were under way when it began
    replies: list[Told]
    expired: Told  # it had ended before the broker was started again
    refused: list[Answer]  # asked while the broker was away
    # asked about the first stream while the broker was away, by the path below its id
    looked_up: dict[str, Answer]
    readiness: list[Readiness]
    of_latecomer: list[Readiness]  # of a gateway that was started while the broker was away
    refused_by_latecomer: Told
    afterwards: list[Told]  # by both gateways
    late_worker_served: bool  # it was started while the broker was away
    lines: dict[str, list[str]] = field(repr=False)  # of each process's log, since the kill


@dataclass
class _Scene:
    stack: Stack
    broker: Broker
    clients: Clients
    upstream: Upstream
    gateway: Gateway

    async def play(self) -> Outage:
        streams = [
            self.clients.post(self.gateway, chat(stream=True, max_tokens=TOKENS)) for _ in range(8)
        ]
        replies = [self.clients.post(self.gateway, chat(max_tokens=TOKENS // 2)) for _ in range(8)]
        await asyncio.gather(*(stream.tokens(3) for stream in streams))
        expiring = self.clients.post(
            self.gateway, chat(x_ttft=600), X_Request_Timeout=str(DEADLINE)
        )
        await until(lambda: self.upstream.has(active=17), "all to run")
        before = {process.name: len(process.log.splitlines()) for process in self.stack.processes}
        async with AsyncExitStack() as probes:
            began = time.monotonic()
            self.broker.kill()
            readiness = await probes.enter_async_context(
                repeated(lambda: readiness_of(self.gateway))
            )
            refused = [await probes.enter_async_context(repeated(self._ask)) for _ in range(4)]
            await until(
                lambda: bool(readiness and readiness[-1][0] == 503), "the gateway to notice"
            )
            looked_up = await self._look_up(streams[0].told.public_id)
            late, worker, refused_late, of_late = await self._start_latecomers(probes)
            expired = await expiring.end()
            await self.broker.start()
            for process in (self.gateway, late, worker):
                await process.ready()
            await self._until_listed(worker, late)
            lasted = time.monotonic() - began
        return Outage(
            streams=await ends(streams),
            replies=await ends(replies),
            lasted=lasted,
            expired=expired,
            refused=[
                answer for answers in refused for answer in answers if answer[0].status != 200
            ],
            looked_up=looked_up,
            readiness=readiness,
            of_latecomer=of_late,
            refused_by_latecomer=refused_late,
            afterwards=await ends(
                [
                    self.clients.post(each, chat(x_ttft=1))
                    for each in (self.gateway, late)
                    for _ in range(40)
                ]
            ),
            late_worker_served=f'"worker":"{worker.owners["sim"]}"' in self.gateway.log + late.log,
            lines={
                process.name: process.log.splitlines()[before.get(process.name, 0) :]
                for process in self.stack.processes
            },
        )

    async def _ask(self) -> Answer:
        return await timed(self.clients.post(self.gateway, chat(max_tokens=1, user="meanwhile")))

    async def _look_up(self, public_id: str) -> dict[str, Answer]:
        path = f"/v1/requests/{public_id}"
        asked = {
            below: timed(self.clients.get(self.gateway, path + below))
            for below in ("", "/result", "/stream")
        }
        asked["/cancel"] = timed(self.clients.post(self.gateway, {}, f"{path}/cancel"))
        return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))

    async def _start_latecomers(
        self, probes: AsyncExitStack
    ) -> tuple[Gateway, Worker, Told, list[Readiness]]:
        gateway = await self.stack.gateway(ready=False)
        worker = await self.stack.worker("sim", self.upstream, ready=False)
        readiness = await probes.enter_async_context(repeated(lambda: readiness_of(gateway)))
        await until(lambda: bool(readiness and readiness[-1][0]), "the gateway to answer")
        return gateway, worker, await self.clients.post(gateway, chat()).end(), readiness

    async def _until_listed(self, worker: Worker, late: Gateway) -> None:
        for gateway in (self.gateway, late):
            await until(lambda one=gateway: lists_three(one), f"{gateway.name} to list all workers")


async def lists_three(gateway: Gateway) -> bool:
    return (await gateway.models())["sim"]["workers"] == 3


async def readiness_of(gateway: Gateway) -> Readiness:
    return await get_json(f"{gateway.root}/readyz")


async def timed(reading: Reading) -> Answer:
    """What this machine stood still meanwhile does not count."""
    begun = time.monotonic()
    async with stalls() as stalled:
        ended = await reading.end()
    return ended, time.monotonic() - begun - sum(stalled)


@asynccontextmanager
async def repeated(
    ask: Callable[[], Awaitable[Seen]], pause: float = 0.2
) -> AsyncIterator[list[Seen]]:
    """Asks again and again; the answers so far."""
    found: list[Seen] = []

    async def go_on() -> None:
        while True:
            found.append(await ask())
            await asyncio.sleep(pause)

    task = asyncio.create_task(go_on())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def play_outage(broker: Broker) -> Outage:
    """Two workers and a gateway; requests under way; the broker away for half a minute. A process
    that ends fails.
    """
    async with (
        Stack("away", BOOTSTRAP_SERVERS=broker.servers, LOG_FORMAT="json", **ENVIRONMENT) as stack,
        Clients() as clients,
    ):
        upstream = await stack.upstream(gap=GAP)
        for _ in range(2):
            await stack.worker("sim", upstream)
        gateway = await stack.gateway()
        return await _Scene(stack, broker, clients, upstream, gateway).play()
