"""Requests that wait: for a worker that is not there, for a free slot, up to their deadline; and
queues that are full.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Reading, check_whole, check_whole_body, ends
from tests.acceptance.services import Endpoint, Gateway, Upstream, Worker
from tests.acceptance.stack import Stack
from tests.redis_server import running_redis

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

MOST = 6  # requests that may wait
LONG = {"x_ttft": 60}


@dataclass
class Site:
    """A gateway that may be killed, one that stays, a worker with one slot."""

    stack: Stack
    upstream: Upstream
    worker: Worker
    mortal: Gateway
    gateway: Gateway
    clients: Clients

    def post(
        self, body: dict[str, Any], gateway: Endpoint | None = None, **headers: str
    ) -> Reading:
        return self.clients.post(gateway or self.gateway, body, **headers)

    async def stop_worker(self) -> None:
        """Cleanly; returns when the gateways know that there is none."""
        self.worker.terminate()
        assert await self.worker.ended() == 0
        await until(lambda: self.has_workers(0), "the gateway to know")

    async def has_workers(self, count: int) -> bool:
        return bool((await self.gateway.models())["sim"]["workers"] == count)

    async def start_worker(self) -> None:
        await self.worker.restart()
        await until(lambda: self.has_workers(1), "the gateway to know")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment() -> AsyncIterator[Site]:
    with running_redis() as url:
        options = {"REDIS_URL": url, "WORKER_CONCURRENCY": "1", "MAX_QUEUE_DEPTH": str(MOST)}
        async with Stack("waiting", **options) as stack, Clients() as clients:
            upstream = await stack.upstream()
            worker = await stack.worker("sim", upstream)
            yield Site(
                stack, upstream, worker, await stack.gateway(), await stack.gateway(), clients
            )


@pytest_asyncio.fixture(loop_scope="module")
async def site(deployment: Site) -> Site:
    """All alive, nothing waiting."""
    for process in (deployment.worker, deployment.mortal):
        if not process.running:
            await process.restart()
    await deployment.upstream.idle()
    await until(lambda: waits(deployment, 0), "the queue to be empty")
    return deployment


async def waits(site: Site, count: int) -> bool:
    model = (await site.gateway.models())["sim"]
    return bool(model["workers"] == 1 and model["queue_depth"] == count)


async def test_what_expires_in_the_queue_is_never_run(site: Site) -> None:
    before = await site.upstream.stats()
    running = site.post(chat(**LONG))
    await until(lambda: site.upstream.has(active=1), "the slot to be taken")
    expired = await ends(
        [site.post(chat(stream=stream), x_request_timeout="1.5") for stream in (False, True)]
    )
    for told in expired:
        assert (told.status, told.error["type"], told.error["code"]) == (
            504,
            "server_error",
            "deadline_exceeded",
        )
        waited = re.search(r"within its ([0-9.]+) s", told.error["message"])
        assert waited is not None
        assert float(waited[1]) >= 1.5
        assert "waiting" in told.error["message"]
        assert told.headers["x-should-retry"] == "false"
    await running.leave()
    check_whole_body(await site.post(chat(max_tokens=1)).end(), 1)
    stats = await site.upstream.idle()
    assert stats.started == before.started + 2
    assert not {told.id for told in expired} & set(stats.tries)


async def test_a_longer_timeout_than_the_gateway_s_is_cut_to_it(site: Site) -> None:
    gateway = await site.stack.gateway(REQUEST_TIMEOUT_SECONDS="1")
    told = await site.post(chat(**LONG), gateway, x_request_timeout="1000").end()
    assert (told.status, told.error["code"]) == (504, "deadline_exceeded")
    gateway.terminate()
    await gateway.ended()


async def test_requests_wait_for_a_worker_and_expire_where_none_comes(site: Site) -> None:
    await site.stop_worker()
    streams, bodies = (
        [site.post(chat(max_tokens=3, stream=True)) for _ in range(2)],
        [site.post(chat(max_tokens=3))],
    )
    expired = await site.post(chat(), x_request_timeout="1").end()
    assert (expired.status, expired.error["code"]) == (504, "deadline_exceeded")
    left = site.post(chat(), x_request_timeout="50")
    await until(lambda: waiting(site, 4), "all to be there but the expired one")
    await left.leave()
    await site.start_worker()
    for told in await ends(streams):
        check_whole(told, 3)
    for told in await ends(bodies):
        check_whole_body(told, 3)
    assert expired.id not in (await site.upstream.idle()).tries


async def waiting(site: Site, count: int) -> bool:
    return bool((await site.gateway.models())["sim"]["queue_depth"] == count)


async def test_what_waited_at_a_gateway_that_died_is_served_by_another(site: Site) -> None:
    """There is no worker, then no first gateway; another one is started, and only then a worker."""
    await site.stop_worker()
    whole, stream = chat(max_tokens=3), chat(max_tokens=3, stream=True)
    waiting = [
        site.post(body, site.mortal, idempotency_key=f"wait-{number}")
        for number, body in enumerate((whole, stream))
    ]
    asked = await site.post(whole, site.mortal, prefer="respond-async").end()
    expiring = site.post(whole, site.mortal, idempotency_key="expires", x_request_timeout="3")
    await until(lambda: queued(site, asked.public_id), "the request to be queued")
    site.mortal.kill()
    await ends([*waiting, expiring])
    late = await site.stack.gateway()
    joined = [
        site.post(body, late, idempotency_key=f"wait-{number}")
        for number, body in enumerate((whole, stream))
    ]
    new = site.post(whole, late)
    gone = await site.post(whole, late, idempotency_key="expires", x_request_timeout="3").end()
    assert (gone.status, gone.error["code"]) == (504, "deadline_exceeded")
    await site.start_worker()
    check_whole_body(await joined[0].end(), 3)
    check_whole(await joined[1].end(), 3)
    check_whole_body(await new.end(), 3)
    await until(lambda: ended(site, asked.public_id), "what belonged to no connection to be served")
    stats = await site.upstream.idle()
    assert [stats.tries[reading.told.id] for reading in joined] == [1, 1]
    late.terminate()
    await late.ended()


async def queued(site: Site, public_id: str) -> bool:
    return bool(
        (await site.clients.get(site.gateway, f"/v1/requests/{public_id}").end()).json["status"]
        == "queued"
    )


async def ended(site: Site, public_id: str) -> bool:
    return (
        await site.clients.get(site.gateway, f"/v1/requests/{public_id}/result").end()
    ).status == 200


async def test_a_full_queue_is_429_with_an_honest_wait(site: Site) -> None:
    before = await site.upstream.stats()
    running = site.post(chat(**LONG))
    await until(lambda: site.upstream.has(active=before.active + 1), "the slot to be taken")
    waiting = [site.post(chat(max_tokens=1, x_ttft=0.5)) for _ in range(MOST)]
    await until(lambda: is_full(site), "all to wait")
    refused = await site.post(chat()).end()
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        429,
        "rate_limit_error",
        "queue_full",
    )
    assert int(refused.headers["retry-after"]) >= 1
    await running.leave()
    for told in await ends(waiting):
        check_whole_body(told, 1)
    check_whole_body(await site.post(chat(max_tokens=1)).end(), 1)


async def is_full(site: Site) -> bool:
    """If the worker fell out of its group meanwhile, what runs counts as waiting, too."""
    return await waits(site, MOST) or await waits(site, MOST + 1)


async def test_what_could_not_begin_before_its_deadline_is_429(site: Site) -> None:
    """Refused as soon as the rate is known at which the queue is served."""
    waiting = [site.post(chat(max_tokens=1, x_ttft=1.2)) for _ in range(MOST)]
    await until(
        lambda: refuses_the_hasty(site), "a request that has little time to be refused at once"
    )
    for told in await ends(waiting):
        check_whole_body(told, 1)


async def refuses_the_hasty(site: Site) -> bool:
    told = await site.post(chat(), x_request_timeout="0.3").end()
    return (
        told.status == 429
        and "longer than" in told.error["message"]
        and int(told.headers["retry-after"]) >= 1
    )


async def test_a_stream_may_ask_for_its_place(site: Site) -> None:
    running = site.post(chat(**LONG))
    await until(lambda: site.upstream.has(active=1), "the slot to be taken")
    reading = site.post(chat(max_tokens=3, stream=True), x_queue_updates="1")
    await until(lambda: len(reading.told.comments) >= 2, "two comments")
    await running.leave()
    told = await reading.end()
    check_whole(told, 3)
    assert all(comment.startswith("queue position=") for comment in told.comments)
