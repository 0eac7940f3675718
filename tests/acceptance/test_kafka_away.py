"""Kafka is killed under load and comes back, or stands still for a while: nobody waits blindly,
nothing needs a restart.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.outage import (
    ADMITTED_WITHIN,
    ENVIRONMENT,
    TOKENS,
    Outage,
    play_outage,
    readiness_of,
    repeated,
    timed,
)
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Told, check_whole, check_whole_body
from tests.acceptance.stack import Stack
from tests.chaos.broker import Broker
from tests.chaos.log import logged

pytestmark = [pytest.mark.servers, pytest.mark.brokers, pytest.mark.asyncio(loop_scope="module")]

IN_TIME = ADMITTED_WITHIN + 7  # seconds; what a busy machine may add
MOST_LINES = 20  # that a process may log in each 45 s of an outage, beside its access lines


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker() -> AsyncIterator[Broker]:
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory))
        await broker.start()
        yield broker
        broker.clear_away()
        await broker.ended()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outage(broker: Broker) -> Outage:
    """Played once; each test looks at another side of it."""
    return await play_outage(broker)


def check_unavailable(told: Told, status: int = 503) -> None:
    assert (told.status, told.error["code"]) == (status, "bus_unavailable")
    assert int(told.headers["retry-after"]) >= 1


async def test_what_was_under_way_comes_to_its_end_with_no_token_missing(outage: Outage) -> None:
    for told in outage.streams:
        check_whole(told, TOKENS)
    for told in outage.replies:
        check_whole_body(told, TOKENS // 2)


async def test_a_deadline_is_kept_while_kafka_is_away(outage: Outage) -> None:
    assert (outage.expired.status, outage.expired.error["code"]) == (504, "deadline_exceeded")


async def test_what_is_asked_meanwhile_is_refused_in_time_and_hears_when_to_come_back(
    outage: Outage,
) -> None:
    assert len(outage.refused) >= 10
    for told, seconds in outage.refused:
        check_unavailable(told)
        assert seconds < IN_TIME


async def test_what_is_looked_up_meanwhile_is_refused_in_time(outage: Outage) -> None:
    for told, seconds in outage.looked_up.values():
        check_unavailable(told)
        assert seconds < IN_TIME


async def test_readiness_says_why_and_comes_back(outage: Outage) -> None:
    statuses = [status for status, _ in outage.readiness]
    assert statuses[-1] == 200
    away = [document["reasons"] for status, document in outage.readiness if status == 503]
    assert len(away) > 10
    assert all(len(reasons) == 1 and reasons[0].startswith("bus: no broker ") for reasons in away)


async def test_a_gateway_and_a_worker_that_start_meanwhile_wait_and_then_serve(
    outage: Outage,
) -> None:
    waiting = [document["reasons"] for status, document in outage.of_latecomer if status == 503]
    assert waiting
    assert "start: starting" in waiting[0]
    # in between what the broker's first answers were, or that none has acknowledged anything yet
    assert all(waiting)
    assert outage.of_latecomer[-1][0] == 200
    check_unavailable(outage.refused_by_latecomer)
    assert outage.late_worker_served


async def test_afterwards_everything_serves(outage: Outage) -> None:
    assert [told.status for told in outage.afterwards] == [200] * len(outage.afterwards)


async def test_the_logs_stay_short_and_readable(outage: Outage) -> None:
    for name, lines in outage.lines.items():
        # uvicorn's, before ours are set up
        documents = [orjson.loads(line) for line in lines if not line.startswith("INFO:  ")]
        said = [document for document in documents if document["logger"] != "app.access"]
        print(f"{name}: {len(said)} lines")
        assert len(said) <= MOST_LINES * (1 + outage.lasted // 45), said


async def test_what_was_refused_while_kafka_stood_still_is_cancelled_when_it_goes_on(
    broker: Broker,
) -> None:
    async with (
        Stack("still", BOOTSTRAP_SERVERS=broker.servers, **ENVIRONMENT) as stack,
        Clients() as clients,
    ):
        upstream = await stack.upstream(gap=0.2)
        await stack.worker("sim", upstream)
        gateway = await stack.gateway()
        running = clients.post(gateway, chat(stream=True, max_tokens=50))
        await running.tokens(3)
        async with repeated(lambda: readiness_of(gateway)) as readiness:
            broker.stop()
            try:
                bodies = [chat(x_ttft=20), chat(x_ttft=20, stream=True)]
                asked = [timed(clients.post(gateway, body)) for body in bodies]
                answers = await asyncio.gather(
                    *asked, timed(clients.post(gateway, bodies[0], Prefer="respond-async"))
                )
                await until(lambda: readiness[-1][0] == 503, "the gateway to notice")
            finally:
                broker.cont()
            await until(lambda: readiness[-1][0] == 200, "the gateway to be ready again")
        for told, seconds in answers:
            check_unavailable(told)
            assert seconds < IN_TIME
        assert readiness[-1][1]["reasons"] == []
        check_whole(await running.end(), 50)
        await until(lambda: upstream.has(active=0, completed=1), "what was refused to be given up")
        in_log = await asyncio.to_thread(logged, broker.servers)
        ids = [
            public_id
            for request, ids in in_log.values()
            for public_id in ids
            if b"x_ttft" in request.body
        ]
        assert len(ids) == len(answers)
        for public_id in ids:
            told = await clients.get(gateway, f"/v1/requests/{public_id}").end()
            assert told.json["status"] == "cancelled"
        check_whole_body(await clients.post(gateway, chat(max_tokens=2)).end(), 2)
