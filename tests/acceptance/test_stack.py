"""What the acceptance tests stand on: the processes' harness and the simulated upstream say what is
so.
"""

import asyncio
import os
import signal

import httpx2
import pytest

from tests.acceptance.asking import HELLO, events
from tests.acceptance.processes import until
from tests.acceptance.services import Upstream
from tests.acceptance.stack import Stack
from tests.numbered import tokens

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


async def ask(upstream: Upstream, path: str, **fields: object) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=upstream.url) as client:
        return await client.post(path, json={"model": "sim", **fields})


async def test_a_process_that_ends_by_itself_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="upstream-1 ended by itself"):
        await lose_an_upstream()


async def lose_an_upstream() -> None:
    async with Stack(bus="memory") as stack:
        upstream = await stack.upstream()
        os.kill(upstream.pid, signal.SIGKILL)
        await until(lambda: not upstream.running, "its end")


async def test_a_process_that_is_killed_can_be_started_again(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    upstream.kill()
    assert await upstream.ended() == -signal.SIGKILL
    await upstream.restart()
    assert await upstream.has(started=0)


async def test_a_process_that_is_stopped_stands_still_until_it_continues(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    upstream.stop()
    asking = asyncio.create_task(upstream.stats())
    await asyncio.wait([asking], timeout=0.3)
    assert not asking.done()
    upstream.cont()
    assert (await asking).started == 0


async def test_no_variable_of_the_tester_gets_into_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_MODEL_NAME", "mine")
    async with Stack(bus="memory") as stack:
        worker = stack.agent(BUS="", BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert await worker.ended() == 2
        assert "OPENAI_MODEL_NAME: is not set" in worker.log


async def test_the_upstream_goes_on_from_a_text(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    so_far = [*HELLO, {"role": "assistant", "content": tokens(3)}]
    begun = await ask(upstream, CHAT, messages=so_far, max_tokens=2)
    continued = await ask(
        upstream, CHAT, messages=so_far, max_tokens=2, continue_final_message=True
    )
    completed = await ask(upstream, TEXT, prompt=f"hello{tokens(3)}", max_tokens=2)
    assert begun.json()["choices"][0]["message"]["content"] == tokens(2)
    assert continued.json()["choices"][0]["message"]["content"] == tokens(2, first=3)
    assert completed.json()["choices"][0]["text"] == tokens(2, first=3)
    assert continued.json()["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
    }


async def test_the_upstream_counts_how_its_generations_ended(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    await ask(upstream, CHAT, messages=HELLO)
    await ask(upstream, CHAT, messages=HELLO, x_status=500)
    failing = await ask(upstream, CHAT, messages=HELLO, stream=True, x_error_after=2)
    assert events(failing.content)[-1]["error"]["code"] == "scripted"
    with pytest.raises(httpx2.RemoteProtocolError):
        await ask(upstream, CHAT, messages=HELLO, stream=True, x_break_after=2)
    leaving = asyncio.create_task(ask(upstream, CHAT, messages=HELLO, x_ttft=60))
    await until(lambda: upstream.has(active=1), "a generation that goes on")
    leaving.cancel()
    await until(
        lambda: upstream.has(started=5, completed=1, failed=3, aborted=1, active=0), "the counters"
    )
