"""What the operator's view shows of a gateway, its models and its requests."""

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from app.agent.consume.dead_letters import dead_letter
from app.errors import BusError
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.recent_requests import RecentRequests
from app.gateway.accounting.request_metrics import RequestMetrics
from app.gateway.gateway import Gateway
from app.gateway.operator.dead_letters import DeadLetterReader
from app.gateway.operator.live_requests import LiveRequests
from app.gateway.operator.overview import Overview
from app.protocol.heartbeats import WorkerHeartbeat, encode_message
from tests.unit.gateway.house import CARD, Client, House, house, submission
from tests.unit.scene import MODEL, REQUESTS, TOPICS, request, until

SECRET = "what nobody but the model is told"


@pytest.fixture
async def home() -> AsyncIterator[House]:
    async with house() as made:
        yield made


async def shown(home: House, gateway: Gateway) -> dict[str, Any]:
    """As it goes over the wire."""
    found: dict[str, Any] = orjson.loads(
        orjson.dumps(
            await Overview(
                gateway,
                LiveRequests(gateway, RecentRequests()),
                AccessLog(),
                DeadLetterReader(home.bus, TOPICS.dlq),
            ).snapshot()
        )
    )
    return found


async def beat(home: House, gateway: Gateway, **members: Any) -> None:
    """A worker's heartbeat, once the gateway has it."""
    told = {
        "capacity": 4,
        "in_flight": 1,
        "waiting": 2,
        "partitions": (0, 1),
        "host": "h",
        "positions": {"0": 0, "1": 0},
    }
    one = WorkerHeartbeat(
        "w", MODEL, REQUESTS, CARD.group, TOPICS.replies, time.time(), 1.0, **{**told, **members}
    )
    await home.bus.send(TOPICS.workers, encode_message(one), key=b"w", headers=[])
    await until(lambda: gateway.model_registry.all()[0].workers.get("w") == one)


async def test_a_model_is_shown_with_its_queue_and_its_workers(home: House) -> None:
    gateway = await home.gateway()
    await beat(home, gateway, ready=False, reason="its upstream is away")
    known = gateway.model_registry.all()[0]
    known.queue_depth, known.rate = 6, 2.0
    (model,) = (await shown(home, gateway))["models"]
    (worker,) = model.pop("workers")
    assert model == {
        **{"id": MODEL, "aliases": [], "queue_depth": 6, "estimated_wait_seconds": 3.0},
        **{"in_flight": 1, "capacity": 0},  # what is not ready takes nothing
    }
    assert (worker["id"], worker["host"], worker["ready"], worker["reason"]) == (
        "w",
        "h",
        False,
        "its upstream is away",
    )
    assert (worker["capacity"], worker["in_flight"], worker["waiting"], worker["partitions"]) == (
        4,
        1,
        2,
        2,
    )


async def test_a_request_is_queued_until_a_worker_says_that_it_runs(home: House) -> None:
    gateway = await home.gateway()
    client = Client(gateway.dispatcher.open_request(submission(tenant="research")))
    call = await client.waits()
    (found,) = (await shown(home, gateway))["running"]
    assert found["created_at"] <= time.time()
    assert {**found, "created_at": 0} == {
        **{
            "id": call.public_id,
            "model": MODEL,
            "endpoint": "chat/completions",
            "tenant": "research",
            "stream": True,
        },
        **{"created_at": 0, "state": "queued", "worker": "", "gateway": gateway.dispatcher.owner},
    }
    await beat(home, gateway, running=(call.id,))
    (found,) = (await shown(home, gateway))["running"]
    assert (found["state"], found["worker"]) == ("running", "w")
    await client.leaves()
    assert (await shown(home, gateway))["running"] == []


async def test_every_gateway_that_lives_is_shown(home: House) -> None:
    first, second = await home.gateway(), await home.gateway()
    both = {first.dispatcher.owner, second.dispatcher.owner}
    await until(lambda: {beat.gateway for beat in first.live_gateways()} == both)
    found = await shown(home, first)
    assert {one["id"] for one in found["gateways"]} == both
    assert (found["gateway"]["id"], found["gateway"]["unready"]) == (first.dispatcher.owner, [])


async def test_dead_letters_are_counted_and_the_last_ones_named(home: House) -> None:
    gateway = await home.gateway()
    assert (await shown(home, gateway))["dead_letters"] == {"count": 0, "last": [], "error": None}
    asked = request(body=SECRET.encode())
    for number in range(12):
        await dead_letter(
            home.bus,
            TOPICS.dlq,
            (REQUESTS, 0, number),
            asked.encode_headers(),
            asked.body,
            f"reason {number}",
        )
    found = (await shown(home, gateway))["dead_letters"]
    assert found["count"] == 12
    assert [letter["offset"] for letter in found["last"]] == list(range(11, 1, -1))
    newest = found["last"][0]
    assert (newest["model"], newest["id"], newest["reason"]) == (MODEL, asked.id, "reason 11")
    assert newest["origin"] == f"{REQUESTS}/0/11"


async def test_a_dead_letter_that_is_none_of_our_format_is_shown_all_the_same(home: House) -> None:
    gateway = await home.gateway()
    await home.bus.send(TOPICS.dlq, b"anything", key=b"", headers=[("model", b"\xff" * 1000)])
    (letter,) = (await shown(home, gateway))["dead_letters"]["last"]
    assert (letter["id"], letter["reason"], len(letter["model"])) == ("?", "", 200)


async def test_a_log_out_of_reach_is_said_where_the_dead_letters_would_be(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await home.gateway()
    monkeypatch.setattr(home.bus, "healthy", lambda: "no broker answers")
    assert (await shown(home, gateway))["dead_letters"] == {
        "count": None,
        "last": [],
        "error": "no broker answers",
    }
    monkeypatch.undo()

    async def fails(topic: str) -> dict[int, int]:
        raise BusError("not now")

    monkeypatch.setattr(home.bus, "ends", fails)
    assert (await shown(home, gateway))["dead_letters"]["error"] == "not now"


async def test_no_prompt_is_in_it(home: House) -> None:
    gateway = await home.gateway()
    body = orjson.dumps(
        {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": SECRET}]}
    )
    client = Client(gateway.dispatcher.open_request(submission(body=body)))
    await client.waits()
    await dead_letter(
        home.bus, TOPICS.dlq, (REQUESTS, 0, 0), [("authorization", SECRET.encode())], body, "reason"
    )
    found = await shown(home, gateway)
    assert found["running"]
    assert found["dead_letters"]["last"]
    assert SECRET not in str(found)
    await client.leaves()


async def test_an_answered_request_is_among_the_recent_ones_before_its_line_is_written(
    home: House,
) -> None:
    gateway = await home.gateway()
    observed = RequestMetrics(gateway.model_registry)
    access_log = AccessLog(observed)
    overview = Overview(
        gateway,
        LiveRequests(gateway, observed.recent_requests),
        access_log,
        DeadLetterReader(home.bus, TOPICS.dlq),
    )
    access_log.log_request(
        {"path": "/v1/chat/completions", "method": "POST", "headers": []},
        200,
        {"model": MODEL, "request_id": "r"},
    )
    assert [recent["id"] for recent in (await overview.snapshot())["recent"]] == ["r"]


async def test_of_very_many_requests_the_newest_are_shown(home: House) -> None:
    gateway = await home.gateway()
    clients = [Client(gateway.dispatcher.open_request(submission())) for _ in range(120)]
    for client in clients:
        await client.waits()
    found = await shown(home, gateway)
    assert (len(found["running"]), found["gateway"]["in_flight"]) == (100, 120)
    for client in clients:
        await client.leaves()
