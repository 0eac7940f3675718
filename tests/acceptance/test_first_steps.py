"""What a newcomer does first: the README's example, test.py, `make run-kafka`'s processes."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT

import pytest

from tests.acceptance.processes import until
from tests.acceptance.services import Endpoint
from tests.acceptance.stack import ROOT, SERVERS, Stack
from tests.nginx import free_port

HERE = "http://127.0.0.1:8000"  # where the README's server is
KEY = "open-sesame-for-tests"


async def run(*arguments: str, says: str = "") -> tuple[int | None, str]:
    """Exit status and output of Python with `arguments`; `says` is its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=STDOUT, cwd=ROOT
    )
    output, _ = await process.communicate(says.encode())
    return process.returncode, output.decode()


def first_request() -> str:
    """The program that the README has its reader paste."""
    found = re.search(
        r"^\.venv/bin/python - <<'END'\n(.*?)^END$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    return found[1]


async def test_the_readmes_first_request_prints_the_answer_whole_and_streamed(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway()
    assert HERE in first_request()
    status, output = await run("-", says=first_request().replace(HERE, gateway.root))
    assert (status, output.count("You said: Hello!")) == (0, 2), output


async def test_the_examples_of_the_sdk_all_work(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(API_KEYS=KEY)
    status, output = await run("test.py", "--base-url", gateway.url, "--api-key", KEY)
    lines = output.splitlines()
    assert (status, len(lines)) == (0, 10), output
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("wrong", [("--model", "nope"), ("--api-key", "guessed")])
async def test_the_examples_of_the_sdk_fail_where_a_request_does(
    memory_stack: Stack, wrong: tuple[str, str]
) -> None:
    gateway = await memory_stack.gateway(API_KEYS=KEY)
    status, output = await run("test.py", "--base-url", gateway.url, "--api-key", KEY, *wrong)
    assert status == 1
    assert "FAILED  OpenAI, chat " in output


@pytest.mark.servers
async def test_run_kafka_serves_until_it_is_told_to_stop(stack: Stack) -> None:
    endpoint = Endpoint(free_port())
    command = [
        "-m",
        "scripts.run_kafka",
        sys.executable,
        "-m",
        "uvicorn",
        "app.main:application",
        f"--port={endpoint.port}",
    ]
    own = {"TOPIC_PREFIX": stack.prefix, "BOOTSTRAP_SERVERS": SERVERS, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=os.environ | own, cwd=stack.directory
    )
    try:
        await until(lambda: has_worker(endpoint, "echo"), "the model's worker")
        status, output = await run("-", says=first_request().replace(HERE, endpoint.root))
        assert (status, output.count("You said: Hello!")) == (0, 2), output
    finally:
        process.terminate()
        ended = await process.wait()
    assert ended == 0
    assert await endpoint.models() == {}


async def has_worker(endpoint: Endpoint, model: str) -> bool:
    found = (await endpoint.models()).get(model)
    return found is not None and found["workers"] == 1
