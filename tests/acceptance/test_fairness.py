"""A tenant's flood, and others beside it: real processes on Kafka, a thousand requests that wait.

How long a request waited is told by the upstream: how many others were begun after it was accepted.
As many as there are slots are begun in each service time. Run with -s it prints the figures.
"""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from app.config.api_keys_file import KeyEntry, hash_key, write_keys
from tests.acceptance.asking import chat
from tests.acceptance.processes import PATIENCE, until
from tests.acceptance.reading import Clients, Reading, check_whole, check_whole_body, ends
from tests.acceptance.services import Endpoint, Gateway, Upstream, Worker
from tests.acceptance.stack import Stack

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

FLOOD = 1000
PARTITIONS = 8
SLOTS = 2
BRIEF: dict[str, Any] = {"max_tokens": 1, "x_ttft": 0.5}  # a request's service time, in seconds
TENANTS: dict[str, dict[str, Any]] = {"flood": {}, "other": {}, "late": {"priority": "low"}}
FILES = 2 * FLOOD + 500  # that a process must be able to open


@pytest.fixture(autouse=True, scope="module")
def many_files() -> Iterator[None]:
    """Each connection is an open file, here and in the gateway, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def key_of(tenant: str) -> str:
    return f"sk-{tenant}-0123456789"


def keys_file(stack: Stack) -> dict[str, str]:
    """A key for each tenant; what a gateway is told of them."""
    path = stack.directory / "keys.yaml"
    write_keys(
        path,
        [
            KeyEntry(id=one, tenant=one, hash=hash_key(key_of(one).encode()), **of)
            for one, of in TENANTS.items()
        ],
    )
    return {"API_KEYS_FILE": str(path), "API_KEYS": key_of("onlooker")}


@dataclass
class Site:
    stack: Stack
    upstream: Upstream
    workers: list[Worker]
    gateways: list[Gateway]
    clients: Clients

    def front(self, tenant: str, gateway: int = 0) -> Endpoint:
        return Endpoint(self.gateways[gateway].port, key_of(tenant))

    def post(self, tenant: str, gateway: int = 0, **fields: object) -> Reading:
        return self.clients.post(self.front(tenant, gateway), chat(**{**BRIEF, **fields}))

    async def add_worker(self) -> Worker:
        self.workers.append(await self.stack.worker("sim", self.upstream))
        return self.workers[-1]

    async def waits_at_most(self, service_times: int, gateway: int = 0) -> None:
        """Asks as the other tenant: once its request is in the log, no more than that are begun
        before it.
        """
        front = self.front("other", gateway)
        accepted = await self.clients.post(
            front, chat(**BRIEF, stream=True), Prefer="respond-async"
        ).end()
        before = (await self.upstream.stats()).started
        check_whole(
            await self.clients.get(front, f"/v1/requests/{accepted.public_id}/stream").end(), 1
        )
        stats = await self.upstream.stats()
        later = [seen.headers["x-request-id"] for seen in stats.requests][::-1].index(accepted.id)
        ahead = stats.started - later - 1 - before
        slots = SLOTS * sum(worker.running for worker in self.workers)
        print(f"{ahead} requests were begun before it, with {slots} slots")
        assert ahead <= service_times * slots, (
            f"{ahead} requests were begun before it, with {slots} slots"
        )

    async def queued(self, count: int) -> bool:
        return bool((await self.gateways[0].models())["sim"]["queue_depth"] >= count)

    @asynccontextmanager
    async def flooded(self, gateways: int = 1) -> AsyncIterator[None]:
        """A thousand requests of one tenant, through so many gateways; those that are left leave at
        the end.
        """
        asked = [self.post("flood", number % gateways) for number in range(FLOOD)]
        try:
            yield
        finally:
            for reading in asked:
                await reading.leave()
            await until(self.is_quiet, "the queue to be empty", 2 * PATIENCE)

    async def is_quiet(self) -> bool:
        model = (await self.gateways[0].models())["sim"]
        return bool(model["queue_depth"] == 0 and model["in_flight"] == 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment() -> AsyncIterator[Site]:
    options = {
        "WORKER_CONCURRENCY": str(SLOTS),
        "MAX_QUEUE_DEPTH": str(2 * FLOOD),
        "KAFKA_REQUEST_PARTITIONS": str(PARTITIONS),
    }
    async with Stack("fair", **options) as stack, Clients() as clients:
        keys = keys_file(stack)
        upstream = await stack.upstream()
        workers = [await stack.worker("sim", upstream)]
        yield Site(
            stack, upstream, workers, [await stack.gateway(**keys) for _ in range(2)], clients
        )


@pytest_asyncio.fixture(loop_scope="module")
async def site(deployment: Site) -> AsyncIterator[Site]:
    """With its first worker alone, before and after."""
    yield deployment
    first, *more = deployment.workers
    for worker in more:
        worker.terminate()
        await worker.ended()
    del deployment.workers[1:]
    if not first.running:
        await first.restart()
    await until(lambda: has_one_worker(deployment), "the gateways to know")


async def has_one_worker(site: Site) -> bool:
    return all([(await gateway.models())["sim"]["workers"] == 1 for gateway in site.gateways])


async def test_another_tenants_requests_wait_for_few_of_a_flood(site: Site) -> None:
    async with site.flooded():
        await until(lambda: site.queued(FLOOD // 5), "the flood to rise", 2 * PATIENCE)
        await site.waits_at_most(3)
        await until(lambda: site.queued(FLOOD * 9 // 10), "the flood to be there", 2 * PATIENCE)
        for gateway in (0, 1):
            await site.waits_at_most(3, gateway)
        late = site.post("late")
        for _ in range(3):
            await site.waits_at_most(3)
        assert not late.told.status, "whose priority is low waits with the flood"
        await late.leave()


async def test_nor_do_they_where_workers_come_and_go(site: Site) -> None:
    """The flood comes through both gateways. What waits has its partitions' new owner, who has to
    look up each of it.
    """
    async with site.flooded(gateways=2):
        await until(lambda: site.queued(FLOOD * 9 // 10), "the flood to be there", 2 * PATIENCE)
        second = await site.add_worker()
        for gateway in (0, 1, 0, 1):
            await site.waits_at_most(3, gateway)
        site.workers[0].kill()
        await until(lambda: has_all(second), "the second to have everything")
        for gateway in (0, 1, 0, 1):
            await site.waits_at_most(3, gateway)


async def has_all(worker: Worker) -> bool:
    return len((await worker.beat()).partitions) == PARTITIONS


async def test_a_tenant_has_no_more_waiting_than_its_share(site: Site) -> None:
    gateway = await site.stack.gateway(**keys_file(site.stack), TENANT_HARD_QUEUE="3")
    site.gateways.append(gateway)
    running = [site.post("flood", 2, x_ttft=60) for _ in range(SLOTS)]
    await until(lambda: site.upstream.has(active=SLOTS), "the slots to be taken")
    waiting = [site.post("flood", 2) for _ in range(3)]
    await until(lambda: site.queued(3), "all to wait")
    refused = await site.post("flood", 2).end()
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        429,
        "rate_limit_error",
        "tenant_queue_full",
    )
    assert int(refused.headers["retry-after"]) >= 1
    other = site.post("other", 2)
    for reading in running:
        await reading.leave()
    for told in await ends([other, *waiting]):
        check_whole_body(told, 1)
    site.gateways.remove(gateway)
    gateway.terminate()
    await gateway.ended()
