"""Requests that are answered 202 at once: each is told once, at its end, as what it came to."""

import asyncio
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.routing import Router

from app.config.api_keys_file import KeyEntry, hash_key
from app.config.settings import load_settings
from app.errors import UpstreamUnreachable
from app.gateway.access.authentication import Authenticator
from app.gateway.access.concurrency_leases import LEASE_SECONDS
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.async_accounting import AsyncAccounting
from app.gateway.accounting.recent_requests import RecentRequests
from app.gateway.gateway import Gateway
from app.gateway.middleware import FastPathRouter, RequestMiddleware
from app.gateway.operator.dead_letters import DeadLetterReader
from app.gateway.operator.live_requests import LiveRequests
from app.gateway.operator.overview import Overview
from app.gateway.routes.inference import InferenceEndpoint
from app.gateway.routes.requests import RequestEndpoints
from app.inference.async_requests import DEADLINE_LEEWAY_SECONDS, AsyncRequests
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import CANCELLED, COMPLETED, DATA, EXPIRED, FINAL
from app.protocol.request_id import new_id
from tests.unit.gateway.calls import JSON, Fed, kept_of
from tests.unit.gateway.house import House, house
from tests.unit.scene import MODEL, TOPICS, body, request, turns, until

Told = tuple[str, int, dict[str, object]]
CHAT = "/v1/chat/completions"
ASYNC = {"Prefer": "respond-async"}
KEY = "sk-one"
KEPT = 600  # bytes
NOTES = (
    ("worker", "w"),
    ("queue-ms", "7.0"),
    ("upstream-ms", "20.0"),
    ("usage", '{"prompt_tokens":3,"completion_tokens":2}'),
)


def keys_with(**limits: int) -> Authenticator:
    """One key with limits."""
    keys = Authenticator(load_settings({"API_KEYS_FILE": "keys.yaml"}).gateway)
    keys.replace_file_keys([KeyEntry(id="one", tenant="t", hash=hash_key(KEY.encode()), **limits)])
    return keys


class Site:
    """A gateway behind its edge, a client of it, and what was told of each request's end."""

    def __init__(self, at: House, gateway: Gateway, **limits: int) -> None:
        self.at, self.gateway = at, gateway
        self.told: list[Told] = []
        self.access_log = AccessLog(
            lambda path, status, line: self.told.append((path, status, line))
        )
        gateway.async_requests.on_ended = AsyncAccounting(self.access_log).account_request
        keys = keys_with(**limits) if limits else Authenticator(load_settings({}).gateway)
        inference = RequestMiddleware(InferenceEndpoint(gateway), keys, self.access_log)
        routed = RequestMiddleware(
            Router(RequestEndpoints(gateway).routes()), keys, self.access_log
        )
        transport = httpx2.ASGITransport(FastPathRouter(routed, inference))
        head = {"authorization": f"Bearer {KEY}"}
        self.client = httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", headers=head
        )

    async def accepted(self, *, stream: bool = False, **headers: str) -> tuple[RequestRecord, str]:
        """A request as it lies in the log, and the id that its client was told."""
        told = await self.client.post(
            CHAT, content=body(stream=stream), headers={**ASYNC, **headers}
        )
        assert told.status_code == 202
        await turns()
        return self.at.requests[-1], told.headers["x-request-id"]

    async def end(self) -> Told:
        """What is told of the one request that ended."""
        await until(lambda: bool(self.told))
        assert len(self.told) == 1
        return self.told[0]

    async def answer(self, asked: RequestRecord, seq: int = 0, **members: Any) -> None:
        await self.at.write(
            asked,
            FINAL,
            seq,
            b"{}",
            **{"outcome": COMPLETED, "status": 200, "head": JSON, **members},
        )


@asynccontextmanager
async def opened() -> AsyncIterator[Site]:
    async with house() as at:
        site = Site(at, await at.gateway())
        async with site.client:
            yield site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as made:
        yield made


async def test_it_is_told_once_at_its_end_with_all_that_its_reply_says(site):
    asked, public_id = await site.accepted(**{"X-Request-Id": "mine"})
    await asyncio.sleep(9)
    assert site.told == []
    await site.answer(asked, notes=NOTES)
    path, status, line = await site.end()
    assert (path, status) == (CHAT, 200)
    assert line.pop("total_ms") == pytest.approx(9000, abs=500)
    assert line == {
        **{
            "model": MODEL,
            "tenant": "anonymous",
            "request_id": public_id,
            "client_request_id": "mine",
            "async": True,
        },
        **{
            "attempts": 1,
            "outcome": COMPLETED,
            "worker": "w",
            "queue_ms": 7.0,
            "upstream_ms": 20.0,
        },
        **{"prompt_tokens": 3, "completion_tokens": 2},
    }
    await asyncio.sleep(100)
    assert (len(site.told), len(site.gateway.async_requests)) == (1, 0)


@asynccontextmanager
async def limited() -> AsyncIterator[tuple[House, Site, Site]]:
    """Two gateways with one store, and one key of which one request may run."""
    async with house() as at:
        here, there = [Site(at, await at.gateway(), concurrent=1) for _ in range(2)]
        async with here.client, there.client:
            yield at, here, there


async def is_full(site: Site) -> bool:
    answer = await site.client.post(CHAT, content=body(), headers=ASYNC)
    assert answer.status_code in (202, 429)
    return answer.status_code == 429


async def test_an_accepted_request_keeps_its_place_until_its_end_and_then_gives_it_back() -> None:
    async with limited() as (_, here, there):
        asked, _ = await here.accepted()
        for _ in range(5):
            await asyncio.sleep(LEASE_SECONDS / 4)
            assert await is_full(here)
            assert await is_full(there)
        await here.answer(asked)
        await until(lambda: len(here.gateway.async_requests) == 0)
        assert not await is_full(there)


async def test_one_whose_gateway_has_died_keeps_its_place_until_its_end_is_seen() -> None:
    async with limited() as (at, here, there):
        asked, public_id = await here.accepted()
        await at.kill(here.gateway)
        await asyncio.sleep(LEASE_SECONDS * 1.5)
        assert await is_full(there)
        assert (await there.client.get(f"/v1/requests/{public_id}")).json()["status"] == "queued"
        assert await is_full(there)
        await there.answer(asked)
        assert (await there.client.get(f"/v1/requests/{public_id}")).json()["status"] == "completed"
        assert not await is_full(there)


async def test_one_whose_gateway_has_died_keeps_its_place_no_longer_than_its_deadline() -> None:
    async with limited() as (at, here, there):
        await here.accepted(**{"X-Request-Timeout": "90"})
        await at.kill(here.gateway)
        await asyncio.sleep(90)
        assert await is_full(there)
        await asyncio.sleep(DEADLINE_LEEWAY_SECONDS + 1)
        assert not await is_full(there)


async def test_one_that_failed_has_the_status_that_a_waiting_client_would_have_got(site):
    asked, _ = await site.accepted()
    await site.at.fail(asked, UpstreamUnreachable("away"))
    _, status, line = await site.end()
    assert (status, line["outcome"]) == (502, "failed")


async def test_a_stream_has_the_status_that_it_began_with(site):
    asked, _ = await site.accepted(stream=True)
    await site.at.begin(asked)
    await site.answer(asked, 1, outcome="failed", status=502)
    _, status, line = await site.end()
    assert (status, line["outcome"], line["attempts"]) == (200, "failed", 1)


async def test_a_whole_reply_that_another_worker_wrote_anew_has_the_last_ones_status(site):
    asked, _ = await site.accepted()
    await site.at.write(asked, DATA, 0, b"{", status=200, head=JSON)
    await site.at.write(asked, "claim", 0, owner="other", supersedes="w")
    await site.answer(asked, 1, owner="other", status=404, outcome="failed")
    _, status, line = await site.end()
    assert (status, line["attempts"]) == (404, 2)


async def test_only_its_writers_records_count(site):
    asked, _ = await site.accepted()
    await site.at.write(asked, DATA, 0, b"{", status=200, head=JSON)
    await site.answer(asked, 1, owner="a zombie")
    assert len(site.gateway.async_requests) == 1
    await site.answer(asked, 1)
    assert (await site.end())[2]["worker"] == "w"


async def test_a_cancel_is_its_end(site):
    asked, public_id = await site.accepted()
    resource = await site.gateway.request_views.find_request(public_id, "anonymous")
    site.gateway.dispatcher.end_request(resource.make_pending_request(), CANCELLED)
    _, status, line = await site.end()
    assert (status, line["outcome"], line["request_id"]) == (409, CANCELLED, public_id)
    await site.answer(asked)
    await asyncio.sleep(10)
    assert len(site.told) == 1


async def test_without_an_end_it_has_expired_some_seconds_after_its_deadline(site):
    asked, _ = await site.accepted(**{"X-Request-Timeout": "30"})
    await asyncio.sleep(34)
    assert (site.told, len(site.gateway.async_requests)) == ([], 1)
    await asyncio.sleep(3)
    _, status, line = await site.end()
    assert (status, line["outcome"], line["attempts"]) == (504, EXPIRED, 0)
    await site.answer(asked)
    await asyncio.sleep(10)
    assert (len(site.told), len(site.gateway.async_requests)) == (1, 0)


async def test_of_those_with_one_deadline_only_what_has_not_ended_expires(site, caplog):
    asked = [(await site.accepted(**{"X-Request-Timeout": "30"}))[0] for _ in range(10)]
    for one in asked[:9]:
        await site.answer(one)
    await asyncio.sleep(40)
    assert [line["outcome"] for _, _, line in site.told] == [COMPLETED] * 9 + [EXPIRED]
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_sent_again_with_its_key_it_is_the_same_request_and_ends_once(site):
    asked, public_id = await site.accepted(**{"Idempotency-Key": "k"})
    again, same = await site.accepted(**{"Idempotency-Key": "k"})
    assert (again.id, same) == (asked.id, public_id)
    _, status, line = await site.end()  # the question; it has nothing of the reply
    assert (status, "outcome" in line, "async" in line) == (202, False, False)
    site.told.clear()
    await site.answer(asked, notes=NOTES)
    _, status, line = await site.end()
    assert (status, line["outcome"], line["async"]) == (200, COMPLETED, True)


async def test_a_client_that_waits_for_it_too_has_a_line_of_its_own(site):
    asked, public_id = await site.accepted(**{"Idempotency-Key": "k"})
    waiting = asyncio.create_task(
        site.client.post(CHAT, content=body(stream=False), headers={"Idempotency-Key": "k"})
    )
    await until(lambda: bool(site.gateway.pending_requests()))
    await site.answer(asked)
    assert (await waiting).headers["x-request-id"] == public_id
    await until(lambda: len(site.told) == 2)
    assert {("async" in line, status, line["request_id"]) for _, status, line in site.told} == {
        (True, 200, public_id),
        (False, 200, public_id),
    }


async def test_an_end_that_came_before_the_202_is_told_as_well():
    asked = Fed(request(now=time.time(), stream=False))
    asked.whole(b"{", b"}", status=404)
    kept, lines = AsyncRequests(lambda model, tenant: None), Lines()
    kept.on_ended = AsyncAccounting(lines).account_request
    kept.add_request(asked.call, kept_of(asked.call))
    ((status, line),) = lines.told
    assert (status, line["outcome"], len(kept)) == (404, "failed", 0)


class Lines(AccessLog):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, dict[str, object]]] = []

    def log_request(self, scope: Any, status: int, line: dict[str, object]) -> None:
        self.told.append((status, line))


class Tokens:
    """What a limited key owes."""

    def __init__(self) -> None:
        self.read_parts: list[bytes] = []
        self.settled: list[tuple[dict[str, object], int]] = []
        self.answers = asyncio.Event()

    def count_part(self, part: ReplyRecord) -> None:
        self.read_parts.append(part.value)

    async def settle(self, line: dict[str, object], status: int) -> None:
        await self.answers.wait()
        line["tokens_counted"] = 5
        self.settled.append((line, status))


async def test_its_keys_tokens_are_settled_before_its_line_is_written():
    asked, tokens, lines = Fed(request(now=time.time())), Tokens(), Lines()
    asked.data(b"before")
    kept, accounting = AsyncRequests(lambda model, tenant: None), AsyncAccounting(lines)
    kept.on_ended = accounting.account_request
    kept.add_request(asked.call, kept_of(asked.call, tokens))
    id_ = asked.call.id.encode()
    kept.apply_record(id_, ReplyRecord(asked.call.id, "w", DATA, 1, b"behind"))
    kept.apply_record(id_, ReplyRecord(asked.call.id, "w", FINAL, 2, outcome=COMPLETED))
    await turns()
    assert lines.told == []
    tokens.answers.set()
    await accounting.close()
    assert [line["tokens_counted"] for _, line in lines.told] == [5]
    assert tokens.read_parts == [b"before", b"behind", b""]
    assert [status for _, status in tokens.settled] == [200]


async def test_what_goes_on_when_the_gateway_ends_is_said(caplog):
    kept = AsyncRequests(lambda model, tenant: None)
    kept.close()
    assert caplog.records == []
    asked = Fed(request(now=time.time()))
    kept.add_request(asked.call, kept_of(asked.call))
    kept.close()
    assert [record.message[:22] for record in caplog.records] == ["1 requests that were a"]


async def test_it_is_among_those_that_run_and_of_very_many_the_newest_are(site):
    overview = Overview(
        site.gateway,
        LiveRequests(site.gateway, RecentRequests()),
        AccessLog(),
        DeadLetterReader(site.at.bus, TOPICS.dlq),
    )
    asked, public_id = await site.accepted()
    (found,) = (await overview.snapshot())["running"]
    assert abs(found.pop("created_at") - time.time()) < 1
    assert found == {
        **{
            "id": public_id,
            "model": MODEL,
            "endpoint": "chat/completions",
            "tenant": "anonymous",
            "stream": False,
        },
        **{"state": "queued", "worker": "", "gateway": site.gateway.dispatcher.owner},
    }
    await site.at.write(asked, DATA, 0, b"{", status=200, head=JSON)
    (found,) = (await overview.snapshot())["running"]
    assert (found["state"], found["worker"]) == ("running", "w")
    ids = [(await site.accepted())[1] for _ in range(110)]
    assert {one["id"] for one in (await overview.snapshot())["running"]} == set(ids[10:])


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the figure is of Python 3.11")
async def test_little_is_kept_of_each():
    kept, count = AsyncRequests(lambda model, tenant: None), 10_000
    tracemalloc.start()
    before, now = tracemalloc.get_traced_memory()[0], time.time()
    for number in range(count):
        asked = Fed(
            request(now=now, id=new_id(), reply_offset=number, tenant="t", body=b"x" * 10_000)
        )
        kept.add_request(asked.call, kept_of(asked.call))
        del asked
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert len(kept) == count
    assert each < KEPT, f"{each:.0f} bytes"
