"""A request as a resource: its state, its result, its stream and its cancel, from any gateway, by
its id alone.
"""

import base64
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.asking import CHAT, chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Reading, Told, check_whole, check_whole_body, ends
from tests.acceptance.services import Endpoint, Gateway, Upstream
from tests.acceptance.stack import Stack

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

SLOTS = 4
ALPHA, BETA = "sk-of-tenant-alpha", "sk-of-tenant-beta"
KEYS = f"{ALPHA},{BETA}"
LONG = {"x_ttft": 60}
MEMBERS = {
    "id",
    "object",
    "status",
    "model",
    "created_at",
    "queue_position",
    "estimated_wait_seconds",
    "attempts",
    "worker",
    "timings",
    "usage",
    "error",
}


@dataclass
class Pair:
    """Two gateways that share nothing but the log; requests are sent to `here`, looked at from
    `there`.
    """

    upstream: Upstream
    here: Gateway
    there: Gateway
    clients: Clients

    def post(self, body: dict[str, Any], path: str = CHAT, **headers: str) -> Reading:
        return self.clients.post(self.here, body, path, **headers)

    async def begun(self, body: dict[str, Any]) -> Told:
        """A request that belongs to no connection."""
        told = await self.post(body, prefer="respond-async").end()
        assert (told.status, told.headers["preference-applied"]) == (202, "respond-async")
        assert told.headers["location"] == f"/v1/requests/{told.public_id}"
        assert told.json["id"] == told.public_id
        return told

    async def get(self, told: Told, what: str = "") -> Told:
        return await self.clients.get(self.there, f"/v1/requests/{told.public_id}{what}").end()

    async def cancel(self, told: Told) -> Told:
        return await self.clients.post(
            self.there, {}, f"/v1/requests/{told.public_id}/cancel"
        ).end()

    async def status(self, told: Told) -> str:
        found = await self.get(told)
        assert found.status == 200, found
        assert set(found.json) == MEMBERS
        assert (found.json["id"], found.json["object"], found.json["model"]) == (
            told.public_id,
            "request",
            "sim",
        )
        return str(found.json["status"])

    async def becomes(self, told: Told, status: str) -> Any:
        """Its description, once it has that status."""
        found: list[Any] = []

        async def has_come() -> bool:
            found.append((await self.get(told)).json)
            return bool(found[-1]["status"] == status)

        await until(has_come, f"the status {status}")
        return found[-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with (
        Stack("resources", WORKER_CONCURRENCY=str(SLOTS), API_KEYS=KEYS) as stack,
        Clients() as clients,
    ):
        upstream = await stack.upstream()
        await stack.worker("sim", upstream)
        here, there = await stack.gateway(API_KEYS=KEYS), await stack.gateway(API_KEYS=KEYS)
        yield Pair(upstream, here, there, clients)


async def test_a_request_runs_and_completes(pair: Pair) -> None:
    told = await pair.begun(chat(max_tokens=5, **LONG))
    await until(lambda: pair.upstream.has(active=1), "it to run")
    begun = time.monotonic()
    running = await pair.becomes(told, "running")
    assert (running["attempts"], running["queue_position"], running["usage"], running["error"]) == (
        1,
        None,
        None,
        None,
    )
    not_yet = await pair.get(told, "/result")
    assert (not_yet.status, not_yet.json["status"]) == (202, "running")
    assert int(not_yet.headers["retry-after"]) >= 1
    ran = time.monotonic() - begun
    await pair.upstream.release()
    completed = await pair.becomes(told, "completed")
    assert completed["usage"] == {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    assert completed["timings"]["upstream_ms"] > 1000 * ran
    check_whole_body(await pair.get(told, "/result"), 5)


async def test_a_result_is_what_the_client_that_waited_got(pair: Pair) -> None:
    bodies = [chat(max_tokens=5), chat(max_tokens=5, stream=True), chat(x_status=400)]
    for told in await ends([pair.post(body) for body in bodies]):
        found = await pair.get(told, "/result")
        assert (found.status, found.body) == (told.status, told.body)
        assert found.headers["content-type"] == told.headers["content-type"]
        assert found.public_id == told.public_id


async def test_a_failed_request_names_its_error(pair: Pair) -> None:
    told = await pair.post(chat(x_status=400)).end()
    described = await pair.becomes(told, "failed")
    assert described["error"] == told.error


async def test_a_stream_can_be_read_again_from_any_event(pair: Pair) -> None:
    told = await pair.post(chat(max_tokens=5, stream=True)).end()
    whole, rest, end = [
        await pair.get(told, f"/stream{query}")
        for query in ("", "?starting_after=6", "?starting_after=8")
    ]
    check_whole(whole, 5)
    assert (whole.ids, rest.ids, end.ids) == ([1, 2, 3, 4, 5, 6, 7, 8], [7, 8], [])
    assert rest.events == whole.events[6:]


async def test_a_stream_is_followed_live(pair: Pair) -> None:
    told = await pair.begun(chat(max_tokens=20, x_gap=1, stream=True))
    reading = pair.clients.get(pair.there, f"/v1/requests/{told.public_id}/stream?starting_after=2")
    await reading.tokens(2)
    assert await pair.status(told) == "running"
    await pair.upstream.release()
    rest = await reading.end()
    assert rest.ids == list(range(3, 24))
    assert (rest.pieces[0], rest.pieces[-1]) == (" tok1", " tok19")


async def test_a_request_that_was_not_streamed_is_one_event(pair: Pair) -> None:
    told = await pair.begun(chat(max_tokens=5, x_ttft=0.5))
    read = await pair.get(told, "/stream")
    assert (read.ids, read.events[1]) == ([1, 2], "[DONE]")
    assert read.events[0] == (await pair.get(told, "/result")).json


async def test_a_running_request_is_cancelled(pair: Pair) -> None:
    before = await pair.upstream.idle()
    stream = pair.post(chat(stream=True, max_tokens=1000, x_gap=0.05))
    told = await pair.begun(chat(**LONG))
    await stream.tokens(2)
    await until(lambda: pair.upstream.has(active=2), "both to run")
    for one in (told, stream.told):
        cancelled = await pair.cancel(one)
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        assert (await pair.cancel(one)).json["status"] == "cancelled"
        result = await pair.get(one, "/result")
        assert result.status == (409 if one is told else 200)
        assert b"request_cancelled" in result.body
    assert (await stream.end()).error["code"] == "request_cancelled"
    assert "[DONE]" not in stream.told.events
    await until(
        lambda: pair.upstream.has(active=0, aborted=before.aborted + 2),
        "the generations to be ended",
    )


async def test_the_client_that_waits_hears_of_the_cancel(pair: Pair) -> None:
    waiting = pair.post(chat(**LONG), idempotency_key="cancelled")
    await until(lambda: pair.upstream.has(active=1), "it to run")
    told = await pair.post(chat(**LONG), idempotency_key="cancelled", prefer="respond-async").end()
    await pair.cancel(told)
    answer = await waiting.end()
    assert answer.public_id == told.public_id
    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (
        409,
        "request_cancelled",
        "false",
    )
    assert (await pair.get(told, "/result")).body == answer.body
    await pair.upstream.idle()


async def test_a_cancel_of_what_has_ended_changes_nothing(pair: Pair) -> None:
    told = await pair.post(chat(max_tokens=1)).end()
    cancelled = await pair.cancel(told)
    assert (cancelled.status, cancelled.json["status"]) == (200, "completed")


async def test_a_queued_request_knows_its_place_and_is_cancelled_without_being_run(
    pair: Pair,
) -> None:
    running = [await pair.begun(chat(**LONG)) for _ in range(SLOTS)]
    await until(lambda: pair.upstream.has(active=SLOTS), "all slots to be taken")
    told = await pair.begun(chat(max_tokens=1))
    described = (await pair.get(told)).json
    assert (described["status"], described["attempts"], described["worker"]) == ("queued", 0, None)
    assert described["queue_position"] >= 0
    assert (await pair.cancel(told)).json["status"] == "cancelled"
    for one in running:
        assert (await pair.cancel(one)).json["status"] == "cancelled"
    stats = await pair.upstream.idle()
    check_whole_body(await pair.post(chat(max_tokens=1)).end(), 1)
    assert told.id not in stats.tries


async def test_an_expired_request_is_504(pair: Pair) -> None:
    told = await pair.post(chat(**LONG), x_request_timeout="0.5").end()
    described = await pair.becomes(told, "expired")
    assert described["error"]["code"] == "deadline_exceeded"
    result = await pair.get(told, "/result")
    assert (result.status, result.body) == (504, told.body)


@pytest.mark.parametrize("what", ["", "/result", "/stream", "/cancel"])
async def test_another_tenant_s_request_is_not_there(pair: Pair, what: str) -> None:
    told = await pair.post(chat(max_tokens=1)).end()
    beta = Endpoint(pair.there.port, BETA)
    path = f"/v1/requests/{told.public_id}{what}"
    found = await (
        pair.clients.post(beta, {}, path) if what == "/cancel" else pair.clients.get(beta, path)
    ).end()
    assert (found.status, found.error["code"]) == (404, "request_not_found")


async def test_an_id_that_was_tampered_with_is_not_there(pair: Pair) -> None:
    told = await pair.post(chat(max_tokens=1)).end()
    raw = base64.urlsafe_b64decode(told.public_id.removeprefix("req_"))
    changed = [
        raw[:at] + bytes([raw[at] ^ change]) + raw[at + 1 :]
        for at in range(len(raw))
        for change in (1, 128)
    ]
    ids = ["req_" + base64.urlsafe_b64encode(one).decode() for one in [*changed, os.urandom(36)]]
    found = await ends(
        [
            pair.clients.get(pair.there, f"/v1/requests/{one}")
            for one in [*ids, "req_", "x", told.id]
        ]
    )
    assert [(one.status, one.error["code"]) for one in found] == [(404, "request_not_found")] * len(
        found
    )
