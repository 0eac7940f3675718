"""An engine dies under a worker that lives: its streams go on where the text can, and end with an
error where it cannot.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, Reading, Told, check_whole, check_whole_body, ends
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

GOES_ON, BEGINS_ANEW, GIVES_UP = "sim", "other", "hasty"  # models
TOKENS = 60
STREAM = {
    "stream": True,
    "max_tokens": TOKENS,
    "x_gap": 0.02,
    "stream_options": {"include_usage": True},
}


@dataclass
class Engine:
    """One upstream for three models: its texts can be continued, or not, or can but are given up
    soon.
    """

    upstream: Upstream
    gateway: Gateway
    clients: Clients

    def stream(self, model: str, **fields: object) -> Reading:
        return self.clients.post(self.gateway, chat(model, **STREAM | fields))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    async with Stack("engine") as stack, Clients() as clients:
        upstream = await stack.upstream(GOES_ON, BEGINS_ANEW, GIVES_UP)
        await stack.worker(
            GIVES_UP,
            upstream,
            OPENAI_CONTINUES="1",
            UPSTREAM_RETRIES="1",
            UPSTREAM_RETRY_SECONDS="0.1",
        )
        stack.models(
            *(
                {"id": model, "host": upstream.url, "continues": model == GOES_ON}
                for model in (GOES_ON, BEGINS_ANEW)
            )
        )
        await stack.worker(UPSTREAM_RETRIES="300", UPSTREAM_RETRY_SECONDS="0.5")
        yield Engine(upstream, await stack.gateway(), clients)


def check_lost(told: Told) -> None:
    """It ended with an error that may be retried, behind what had come before."""
    assert told.status == 200
    assert (told.error["type"], told.error["code"]) == ("server_error", "worker_lost")
    assert "[DONE]" not in told.events


async def test_streams_outlive_their_engine_where_their_text_can_go_on(engine: Engine) -> None:
    goes_on, begins_anew = (
        [engine.stream(model, x_gap=0.5) for _ in range(3)] for model in (GOES_ON, BEGINS_ANEW)
    )
    gives_up = engine.stream(GIVES_UP, x_gap=0.5)
    unseen = engine.clients.post(
        engine.gateway, chat(BEGINS_ANEW, stream=True, max_tokens=5, x_ttft=60)
    )
    whole = engine.clients.post(engine.gateway, chat(BEGINS_ANEW, max_tokens=5, x_ttft=60))
    for reading in (*goes_on, *begins_anew, gives_up):
        await reading.tokens(3)
    await until(lambda: engine.upstream.has(active=9), "all to run")
    engine.upstream.kill()
    check_lost(await gives_up.end())
    await engine.upstream.restart()
    await until(
        lambda: engine.upstream.has(active=5), "all that can go on, or was not seen, to run again"
    )
    await engine.upstream.release()
    check_whole(await unseen.end(), 5)
    check_whole_body(await whole.end(), 5)
    for told in await ends(goes_on):
        check_whole(told, TOKENS, usage=True)
    for told in await ends(begins_anew):
        check_lost(told)


async def test_a_reset_is_not_seen_wherever_it_comes(engine: Engine) -> None:
    for told in await ends(
        [engine.stream(GOES_ON, x_break_after=count, x_times=1) for count in (0, 1, 2, 30, 59)]
    ):
        check_whole(told, TOKENS, usage=True)


async def test_a_text_that_breaks_off_again_and_again_goes_on_each_time(engine: Engine) -> None:
    told = await engine.stream(GOES_ON, x_break_after=10, x_times=5).end()
    check_whole(told, TOKENS, usage=True)
    assert (await engine.upstream.stats()).tries[told.id] == 6
