"""`uvicorn app.main:application` by itself, on the memory bus: keys, limits, an upstream that goes,
draining, refused starts.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest

from tests.acceptance.asking import CHAT, HELLO, chat, error_of, text_of
from tests.acceptance.processes import Process, get_json, until
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import ROOT, Stack
from tests.nginx import free_port
from tests.numbered import tokens


async def served(stack: Stack, upstream: Upstream, *options: str, **environment: str) -> Gateway:
    """A gateway in front of the upstream's model sim."""
    first = {"FIRST_OPENAI_MODEL_NAME": "sim", "FIRST_OPENAI_HOST": upstream.url}
    return await stack.gateway(*options, **first, **environment)


async def test_with_nothing_configured_the_demonstration_model_answers(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway()
    await until(lambda: _lists(gateway, "echo"), "the echo model")
    async with gateway.openai() as sdk:
        stream = await sdk.chat.completions.create(model="echo", messages=HELLO, stream=True)
        assert (await text_of(stream)).startswith("You said: hello")
        text = await sdk.completions.create(model="echo", prompt="hello", max_tokens=3)
        assert (text.choices[0].text, text.usage.completion_tokens) == ("You said: hello", 3)


async def test_the_gateways_address_in_a_browser_leads_to_the_page(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(API_KEYS="sk-of-a-client-0123")
    async with httpx2.AsyncClient(base_url=gateway.root) as http:  # a browser has no key
        found = await http.get("/")
        page = await http.get("/", follow_redirects=True)
    assert (found.status_code, found.headers["location"]) == (307, "ui")
    assert "<title>" in page.text


async def _lists(gateway: Gateway, model: str) -> bool:
    return model in await gateway.models()


async def test_two_models_from_the_environment_are_served(memory_stack: Stack) -> None:
    first, second = await memory_stack.upstream("one"), await memory_stack.upstream("two")
    gateway = await memory_stack.gateway(
        FIRST_OPENAI_MODEL_NAME="one",
        FIRST_OPENAI_HOST=first.url,
        SECOND_OPENAI_MODEL_NAME="two",
        SECOND_OPENAI_HOST=f"{second.url}/v1",
        SECOND_OPENAI_TOKEN="sk-second",
    )
    async with gateway.openai() as sdk:
        for model in ("one", "two", "two"):
            await sdk.chat.completions.create(model=model, messages=HELLO)
    assert ((await first.stats()).completed, (await second.stats()).completed) == (1, 2)
    assert (await second.last()).headers["authorization"] == "Bearer sk-second"


async def test_web_pages_of_the_origins_that_are_set_may_call(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(
        CORS_ORIGINS="https://a.example,https://b.example", API_KEYS="sk-of-the-first-1"
    )
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with aiohttp.ClientSession() as browser:
        for origin, allowed in (("https://b.example", True), ("https://c.example", False)):
            async with browser.options(
                gateway.root + CHAT, headers={"Origin": origin, **asked}
            ) as told:
                assert (told.status, told.headers.get("access-control-allow-origin") == origin) == (
                    200 if allowed else 400,
                    allowed,
                )
            async with browser.post(
                gateway.root + CHAT, json=chat(), headers={"Origin": origin}
            ) as told:
                # a page of an origin that may call needs a key all the same, and may read why
                assert told.status == 401
                assert (told.headers.get("access-control-allow-origin") == origin) == allowed
                assert told.headers["x-content-type-options"] == "nosniff"


async def test_with_keys_only_their_owners_are_served(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, API_KEYS="sk-of-the-first-1,sk-of-the-second")
    for key in ("sk-of-the-first-1", "sk-of-the-second"):
        async with gateway.openai(api_key=key) as sdk:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
    async with gateway.openai(api_key="sk-guessed") as sdk:
        for asked in (
            sdk.chat.completions.create(model="sim", messages=HELLO),
            sdk.models.retrieve("sim"),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                await asked
            assert refused.value.code == "invalid_api_key"
            assert "sk-guessed" not in refused.value.response.text
    async with gateway.http(headers={}) as http:
        assert error_of(await http.post(CHAT, json=chat()))["code"] == "invalid_api_key"
        open_to_all = [
            await http.get(path) for path in ("/healthz", "/readyz", "/docs", "/openapi.json")
        ]
    assert [response.status_code for response in open_to_all] == [200] * 4
    assert (await upstream.stats()).started == 2


async def test_a_full_queue_is_429_and_says_when_to_come_back(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, WORKER_CONCURRENCY="1", MAX_QUEUE_DEPTH="2")
    async with gateway.openai() as sdk:
        slow = {"model": "sim", "messages": HELLO, "extra_body": {"x_ttft": 60}}
        waiting = [asyncio.create_task(sdk.chat.completions.create(**slow)) for _ in range(3)]
        await until(lambda: upstream.has(active=1), "one to run")
        await until(lambda: _depth_is(gateway, 2), "two to wait")
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
        assert refused.value.code == "queue_full"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert (await upstream.stats()).started == 1
        for task in waiting:
            task.cancel()


async def test_what_its_client_has_left_in_the_queue_is_never_run(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, WORKER_CONCURRENCY="1")
    async with gateway.http() as http:
        running = asyncio.create_task(http.post(CHAT, json=chat(user="runs", x_ttft=60)))
        await until(lambda: upstream.has(active=1), "one to run")
        queued = asyncio.create_task(http.post(CHAT, json=chat(user="queued")))
        await until(lambda: _depth_is(gateway, 1), "one to wait")
        queued.cancel()
        await until(lambda: "client=gone" in gateway.log, "the gateway to know")
        running.cancel()
        await http.post(CHAT, json=chat(user="afterwards"))
    assert [seen.json["user"] for seen in (await upstream.stats()).requests] == [
        "runs",
        "afterwards",
    ]


async def _depth_is(gateway: Gateway, depth: int) -> bool:
    return (await gateway.models())["sim"]["queue_depth"] == depth


async def test_an_upstream_that_is_gone_is_502_and_served_again_when_it_is_back(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream, UPSTREAM_RETRIES="0")
    async with gateway.openai() as sdk:
        await sdk.chat.completions.create(model="sim", messages=HELLO)
        upstream.kill()
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
        assert (refused.value.status_code, refused.value.code) == (502, "upstream_unreachable")
        await upstream.restart()
        await sdk.chat.completions.create(model="sim", messages=HELLO)


async def test_a_request_waits_for_an_upstream_that_is_not_up_yet(memory_stack: Stack) -> None:
    port = free_port()
    gateway = await memory_stack.gateway(
        FIRST_OPENAI_MODEL_NAME="sim",
        FIRST_OPENAI_HOST=f"http://127.0.0.1:{port}",
        HEARTBEAT_SECONDS="0.2",
    )
    async with gateway.openai() as sdk:
        asking = asyncio.create_task(
            sdk.chat.completions.create(model="sim", messages=HELLO, max_tokens=2)
        )
        await until(lambda: _depth_is(gateway, 1), "the request to wait")
        await until(lambda: "not serving yet" in gateway.log, "it to say why")
        assert gateway.log.count("not serving yet") == 1  # and not again and again
        await memory_stack.upstream(port=port)
        assert (await asking).choices[0].message.content == tokens(2)


async def test_a_gateway_that_is_its_own_upstream_is_caught(memory_stack: Stack) -> None:
    port = free_port()
    gateway = await memory_stack.gateway(
        port=port, FIRST_OPENAI_MODEL_NAME="sim", FIRST_OPENAI_HOST=f"http://127.0.0.1:{port}"
    )
    await until(lambda: _lists(gateway, "sim"), "the model")
    async with gateway.openai() as sdk:
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
    assert refused.value.code == "upstream_loop"
    assert "OPENAI_HOST" in refused.value.message


async def test_a_terminated_gateway_finishes_its_streams_and_refuses_what_is_new(
    memory_stack: Stack,
) -> None:
    upstream = await memory_stack.upstream()
    gateway = await served(memory_stack, upstream)
    async with gateway.openai() as sdk, gateway.http() as http:
        stream = await sdk.chat.completions.create(
            model="sim", messages=HELLO, stream=True, max_tokens=40, extra_body={"x_gap": 0.5}
        )
        await anext(stream)
        gateway.terminate()
        await until(lambda: "draining" in gateway.log, "the gateway to drain")
        refused = await http.post(CHAT, json=chat())
        assert (refused.status_code, error_of(refused)["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        assert (await http.get("/readyz")).status_code == 503
        await upstream.hurry()
        assert await text_of(stream) == tokens(40)
    # uvicorn passes the signal on to itself at the end
    assert await gateway.ended() in (0, -signal.SIGTERM)


async def test_without_its_log_a_gateway_lives_is_not_ready_and_says_so(
    memory_stack: Stack,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    gateway = await memory_stack.gateway(ready=False, BUS="kafka", BOOTSTRAP_SERVERS=nobody)
    async with gateway.http() as http, gateway.openai() as sdk:
        await until(lambda: _answers(gateway), "the gateway to listen")
        assert (await http.get("/healthz")).status_code == 200
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["reasons"]
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(model="sim", messages=HELLO)
    assert (refused.value.status_code, refused.value.code) == (503, "bus_unavailable")
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def _answers(gateway: Gateway) -> bool:
    status, _ = await get_json(f"{gateway.root}/healthz")
    return status == 200


async def test_several_processes_on_the_memory_bus_are_refused(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway("--workers=2", ready=False)
    await gateway.ended()
    assert "--workers: the memory bus lives in one process" in gateway.log


async def test_where_logs_are_json_every_line_is_from_the_first_to_the_last(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway(LOG_FORMAT="json")
    async with gateway.http() as http:
        assert (await http.post(CHAT, json=chat("echo"))).status_code == 200
    gateway.terminate()
    await gateway.ended()
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert lines[0]["message"].startswith("Started server process")
    (access,) = [line for line in lines if line["message"] == "POST /v1/chat/completions"]
    assert (access["status"], access["model"], access["tenant"]) == (200, "echo", "anonymous")
    assert lines[-1]["message"].startswith("Finished server process")


BREAKS = "def breaks(*_): raise RuntimeError('nobody has thought of this')\n"
WORKER = (
    "import sys, app.agent.__main__ as main, app.agent.worker as worker\n"
    "{}.start = breaks; main.make_bus = no_bus; sys.exit(main.main())"
)
STARTS = {
    "gateway": "import uvicorn, app.main as main; main.Gateway._start_components = breaks; "
    "uvicorn.run(main.application, port=0)",
    "worker": WORKER.format("main.Fleet"),
    "worker of one model": WORKER.format("worker.Worker"),
}
NO_BUS = (
    "from app.bus.memory.bus import MemoryBus\ndef no_bus(settings, shared): return "
    "MemoryBus(settings)\n"
)


@pytest.mark.parametrize("kind", STARTS)
async def test_a_start_that_fails_says_why_and_ends_the_process(tmp_path: Path, kind: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "BUS": "memory",
        "OPENAI_MODEL_NAME": "echo",
    }
    process = Process(
        kind, [sys.executable, "-c", BREAKS + NO_BUS + STARTS[kind]], environment, tmp_path
    )
    try:
        assert await process.ended() == 1, process.tail
    finally:
        process.clear_away()
    assert "CRITICAL" in process.log
    assert (
        "the start failed, so this process ends: RuntimeError('nobody has thought of this')"
        in process.log
    )


WRONG_SETTINGS = {"DRAIN_SECONDS": "soon", "MODELS_FILE": "nowhere.yaml"}


@pytest.mark.parametrize("variable", WRONG_SETTINGS)
async def test_a_setting_that_does_not_work_stops_the_start_in_one_line(
    memory_stack: Stack, variable: str
) -> None:
    gateway = await memory_stack.gateway(ready=False, **{variable: WRONG_SETTINGS[variable]})
    assert await gateway.ended() != 0
    (line,) = gateway.log.splitlines()
    assert variable in line
    assert "for example" in line


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, "BOOTSTRAP_SERVERS"),
        ({"BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "OPENAI_MODEL_NAME"),
        ({"BOOTSTRAP_SERVERS": "127.0.0.1:1", "OPENAI_MODEL_NAME": "sim"}, "OPENAI_HOST"),
    ],
)
async def test_a_worker_without_what_it_needs_names_it_and_ends(
    memory_stack: Stack, environment: dict[str, str], variable: str
) -> None:
    worker = memory_stack.agent(**{"BUS": "", **environment})
    assert await worker.ended() == 2
    (line,) = worker.log.splitlines()
    assert variable in line
