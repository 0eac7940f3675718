"""A gateway is killed: its clients find their replies at another, by Idempotency-Key, by the
request's id, or by nginx's hand.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Reading, Told, check_whole, check_whole_body, ends
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack
from tests.numbered import tokens
from tests.redis_server import running_redis

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

STREAM = {"stream": True, "max_tokens": 60, "x_gap": 1, "stream_options": {"include_usage": True}}
EVENTS = 60 + 4  # role, finish, usage, [DONE]


@dataclass
class Twins:
    """Two gateways that share a store; the first one is killed again and again."""

    stack: Stack
    upstream: Upstream
    mortal: Gateway
    other: Gateway
    clients: Clients


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment() -> AsyncIterator[Twins]:
    with running_redis() as url:
        async with (
            Stack("twins", REDIS_URL=url, WORKER_CONCURRENCY="300") as stack,
            Clients() as clients,
        ):
            upstream = await stack.upstream()
            await stack.worker("sim", upstream)
            yield Twins(stack, upstream, await stack.gateway(), await stack.gateway(), clients)


@pytest_asyncio.fixture(loop_scope="module")
async def twins(deployment: Twins) -> Twins:
    """With both alive."""
    if not deployment.mortal.running:
        await deployment.mortal.restart()
    return deployment


async def tries(twins: Twins, told: Told) -> int:
    return (await twins.upstream.stats()).tries[told.id]


async def test_a_stream_is_joined_by_its_key_and_goes_on_behind_what_was_seen(twins: Twins) -> None:
    key, body = secrets.token_hex(8), chat(**STREAM)
    reading = twins.clients.post(twins.mortal, body, idempotency_key=key)
    await reading.tokens(2)
    twins.mortal.kill()
    first = await reading.end()
    assert first.cut
    assert first.ids == list(range(1, len(first.ids) + 1))
    joining = twins.clients.post(
        twins.other, body, idempotency_key=key, last_event_id=str(first.ids[-1])
    )
    await joining.tokens(1)
    await twins.upstream.release()
    rest = await joining.end()
    assert rest.public_id == first.public_id
    assert first.ids + rest.ids == list(range(1, EVENTS + 1))
    assert first.text + rest.text == tokens(60)
    assert await tries(twins, rest) == 1


async def test_a_running_request_is_joined_and_a_finished_one_replayed(twins: Twins) -> None:
    key, body = secrets.token_hex(8), chat(max_tokens=60, x_ttft=60)
    reading = twins.clients.post(twins.mortal, body, idempotency_key=key)
    await until(lambda: twins.upstream.has(active=1), "it to run")
    twins.mortal.kill()
    assert (await reading.end()).cut
    joining = twins.clients.post(twins.other, body, idempotency_key=key)
    await until(lambda: twins.other.answers(1), "it to be joined")
    await twins.upstream.release()
    joined = await joining.end()
    replayed = await twins.clients.post(twins.other, body, idempotency_key=key).end()
    check_whole_body(joined, 60)
    assert (replayed.public_id, replayed.body) == (joined.public_id, joined.body)
    assert await tries(twins, joined) == 1


async def test_a_finished_stream_is_replayed_whole_or_from_where_it_is_wanted(twins: Twins) -> None:
    key, body = secrets.token_hex(8), chat(**STREAM | {"x_gap": 0})
    first = await twins.clients.post(twins.mortal, body, idempotency_key=key).end()
    twins.mortal.kill()
    whole, end = await ends(
        [
            twins.clients.post(twins.other, body, idempotency_key=key),
            twins.clients.post(twins.other, body, idempotency_key=key, last_event_id="62"),
        ]
    )
    check_whole(whole, 60, usage=True)
    assert whole.body == first.body
    assert end.ids == [63, 64]
    assert await tries(twins, first) == 1


async def test_nginx_hands_a_request_over_before_its_first_byte(twins: Twins) -> None:
    before = await twins.upstream.idle()
    nginx = twins.stack.nginx(twins.mortal, twins.other)
    bodies = [
        chat(max_tokens=20, x_ttft=60, stream=stream) for stream in (True, False) for _ in range(10)
    ]
    readings = [twins.clients.post(nginx, body) for body in bodies]
    await until(lambda: twins.upstream.has(active=20), "all to run")
    twins.mortal.kill()
    await until(lambda: twins.other.answers(20), "nginx to hand them over")
    await twins.upstream.release()
    told = await ends(readings)
    for one in told[:10]:
        check_whole(one, 20)
    for one in told[10:]:
        check_whole_body(one, 20)
    assert (await twins.upstream.stats()).started == before.started + 20


async def test_two_hundred_streams_are_taken_up_again_elsewhere(twins: Twins) -> None:
    body = chat(**STREAM)
    readings = [twins.clients.post(twins.mortal, body, x_event_ids="1") for _ in range(200)]
    await asyncio.gather(*(reading.tokens(1) for reading in readings))
    twins.mortal.kill()
    first = await ends(readings)
    resuming = [resume(twins, told) for told in first]
    await asyncio.gather(*(reading.tokens(1) for reading in resuming))
    await twins.upstream.release()
    resumed = await ends(resuming)
    for one, rest in zip(first, resumed, strict=True):
        assert one.cut
        assert one.ids + rest.ids == list(range(1, EVENTS + 1))
        assert one.text + rest.text == tokens(60)
        assert rest.events[-1] == "[DONE]"


def resume(twins: Twins, told: Told) -> Reading:
    return twins.clients.get(
        twins.other, f"/v1/requests/{told.public_id}/stream?starting_after={told.ids[-1]}"
    )


async def test_two_clients_with_one_key_share_a_reply(twins: Twins) -> None:
    """At one gateway: whichever is served first takes nothing from the other."""
    key, body = secrets.token_hex(8), chat(max_tokens=20, x_ttft=0.5)
    for gateway in (twins.other, twins.mortal):
        told = await ends(
            [
                twins.clients.post(gateway, body, idempotency_key=key + gateway.name)
                for _ in range(10)
            ]
        )
        for one in told:
            check_whole_body(one, 20)
        assert len({one.public_id for one in told}) == 1
        assert await tries(twins, told[0]) == 1


async def test_a_key_that_was_used_for_another_request_is_refused(twins: Twins) -> None:
    key = secrets.token_hex(8)
    await twins.clients.post(twins.mortal, chat(max_tokens=1), idempotency_key=key).end()
    told = await twins.clients.post(twins.other, chat(max_tokens=2), idempotency_key=key).end()
    assert (told.status, told.error["code"]) == (409, "idempotency_key_reused")
    assert told.headers["x-should-retry"] == "false"
