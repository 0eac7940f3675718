"""What a newcomer does wrong is said where they look: the reason of a model that nobody serves, an
address without /v1.
"""

import subprocess
import sys
from contextlib import suppress

import httpx2

from tests.acceptance.asking import chat, error_of
from tests.acceptance.processes import until
from tests.acceptance.raw import exchange, request
from tests.acceptance.stack import ROOT, Stack


async def test_an_upstream_that_never_came_up_is_named_everywhere(
    memory_stack: Stack, refusing_port: int
) -> None:
    model = {
        "FIRST_OPENAI_MODEL_NAME": "m",
        "FIRST_OPENAI_HOST": f"http://127.0.0.1:{refusing_port}",
    }
    gateway = await memory_stack.gateway(**model, READY_REQUIRES_WORKERS="1", ready=False)
    async with gateway.http() as http:

        async def listed() -> bool:
            with suppress(httpx2.TransportError):  # it has just been started
                found = (await http.get("/v1/models")).json().get("data") or [{}]
                return "Connection refused" in str(found[0].get("reason"))
            return False

        await until(listed, "the reason in the list of models")
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert "Connection refused" in ready.json()["unserved_models"]["m"]
        asked = {"json": chat("m"), "headers": {"x-request-timeout": "1"}}
        refused = await http.post("/v1/chat/completions", **asked)
        assert (refused.status_code, "Connection refused" in error_of(refused)["message"]) == (
            504,
            True,
        )
        stream = {
            "json": chat("m", stream=True),
            "headers": {"x-request-timeout": "2", "x-queue-updates": "1"},
        }
        assert b"Connection refused" in (await http.post("/v1/chat/completions", **stream)).content


async def test_a_path_without_v1_has_a_hint(echo) -> None:
    for path, method in (
        ("/chat/completions", "POST"),
        ("/models", "GET"),
        ("/embeddings/", "POST"),
    ):
        answer = await exchange(echo.port, request(path, method=method))
        assert answer.status == 404
        assert f"Did you mean /v1{path.rstrip('/')}?" in answer.error["message"]


def test_the_examples_say_in_one_line_that_nobody_listens(refusing_port: int) -> None:
    command = [sys.executable, "test.py", "--base-url", f"http://127.0.0.1:{refusing_port}/v1"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    (line,) = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert f"no server answers at http://127.0.0.1:{refusing_port}/v1" in line
    assert "--base-url" in line
