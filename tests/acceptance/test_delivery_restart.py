"""Every gateway and every worker is restarted, one after another, under load behind nginx: nobody notices."""

import pytest

from tests.acceptance.processes import Process, until
from tests.acceptance.reading import Clients, Told, check_once, load
from tests.acceptance.stack import Stack
from tests.redis_server import running_redis

pytestmark = pytest.mark.servers


async def renew(process: Process, told: list[Told]) -> None:
    """Told to end, it finishes what it has; then it is started again, and takes its share."""
    process.terminate()
    await process.ended(seconds=60)
    await process.restart()
    count = len(told)
    await until(lambda: len(told) >= count + 24, "the load to flow")


async def test_a_rolling_restart_fails_no_request_and_doubles_no_token() -> None:
    with running_redis() as url:
        async with Stack("rolling", REDIS_URL=url, OPENAI_CONTINUES="0") as stack, Clients() as clients:
            upstream = await stack.upstream()
            workers = [await stack.worker("sim", upstream) for _ in range(2)]
            gateways = [await stack.gateway() for _ in range(2)]
            async with load(clients, stack.nginx(*gateways), 24) as told:
                await until(lambda: len(told) >= 24, "the load to flow")
                for process in (*gateways, *workers):
                    await renew(process, told)
            check_once(told, await upstream.idle())
