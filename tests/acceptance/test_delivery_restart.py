"""Gateways and workers that are told to end: nobody notices; what takes longer than they may wait
goes on elsewhere.
"""

import pytest

from tests.acceptance.asking import chat
from tests.acceptance.processes import Process, until
from tests.acceptance.reading import (
    Clients,
    Told,
    check_once,
    check_whole,
    check_whole_body,
    ends,
    load,
)
from tests.acceptance.stack import Stack
from tests.numbered import tokens
from tests.redis_server import running_redis

pytestmark = pytest.mark.servers


async def renew(process: Process, told: list[Told]) -> None:
    """Told to end, it finishes what it has; then it is started again, and takes its share."""
    process.terminate()
    await process.ended()
    await process.restart()
    count = len(told)
    await until(lambda: len(told) >= count + 12, "the load to flow")


async def test_a_rolling_restart_fails_no_request_and_doubles_no_token() -> None:
    with running_redis() as url:
        async with (
            Stack("rolling", REDIS_URL=url, OPENAI_CONTINUES="0") as stack,
            Clients() as clients,
        ):
            upstream = await stack.upstream()
            workers = [await stack.worker("sim", upstream) for _ in range(2)]
            gateways = [await stack.gateway() for _ in range(2)]
            async with load(clients, stack.nginx(*gateways), 24) as told:
                await until(lambda: len(told) >= 24, "the load to flow")
                for process in (*gateways, *workers):
                    await renew(process, told)
            check_once(told, await upstream.idle())


LONG = {"stream": True, "max_tokens": 100, "x_gap": 0.5, "stream_options": {"include_usage": True}}


async def test_a_worker_hands_back_what_takes_longer_than_it_may_wait(stack: Stack) -> None:
    """Streams go on where the first worker left them; handing back is no death."""
    upstream = await stack.upstream()
    first = await stack.worker("sim", upstream, DRAIN_SECONDS="0.5")
    gateway = await stack.gateway()
    async with Clients() as clients:
        streams = [clients.post(gateway, chat(**LONG)) for _ in range(5)]
        whole = [clients.post(gateway, chat(max_tokens=3, x_ttft=60)) for _ in range(5)]
        for reading in streams:
            await reading.tokens(3)
        await until(lambda: upstream.has(active=10), "all to run")
        await stack.worker("sim", upstream)
        first.terminate()
        assert await first.ended() == 0
        await upstream.hurry()
        for told in await ends(streams):
            check_whole(told, 100, usage=True)
            described = (await clients.get(gateway, f"/v1/requests/{told.public_id}").end()).json
            assert (described["status"], described["attempts"]) == ("completed", 2)
            assert described["usage"]["completion_tokens"] == 100
        for told in await ends(whole):
            check_whole_body(told, 3)
    assert (await upstream.idle()).started == 20


async def test_a_gateway_ends_what_takes_longer_than_it_may_wait_so_that_it_can_be_resumed(
    stack: Stack,
) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream)
    ending, other = await stack.gateway(DRAIN_SECONDS="0.5"), await stack.gateway()
    async with Clients() as clients:
        reading = clients.post(ending, chat(**LONG), x_event_ids="1")
        whole = clients.post(ending, chat(max_tokens=3, x_ttft=60))
        await reading.tokens(3)
        resumed = clients.get(ending, f"/v1/requests/{reading.told.public_id}/stream")
        await resumed.tokens(3)
        await until(lambda: upstream.has(active=2), "both to run")
        ending.terminate()
        await ending.ended()
        first, again, refused = await ends([reading, resumed, whole])
        for told in (first, again):
            assert (told.error["type"], told.error["code"]) == ("server_error", "gateway_draining")
            assert told.public_id in told.error["message"]
        assert (refused.status, refused.error["code"]) == (503, "gateway_draining")
        seen = len([event for event in first.events if "choices" in event])
        following = clients.get(
            other, f"/v1/requests/{first.public_id}/stream?starting_after={seen}"
        )
        await following.tokens(1)
        await upstream.release()
        rest = await following.end()
        assert first.text + rest.text == tokens(100)
        await until(lambda: upstream.has(completed=2), "both to complete")
        check_whole_body(
            await clients.get(other, f"/v1/requests/{refused.public_id}/result").end(), 3
        )
