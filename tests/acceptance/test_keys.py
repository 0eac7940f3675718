"""Keys as clients and operators meet them: real processes on the memory bus, the SDK, python -m
app.admin keys.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from app.config.settings import load_settings
from tests.acceptance.asking import CHAT, HELLO, chat, error_of
from tests.acceptance.processes import get_json, until
from tests.acceptance.services import Gateway
from tests.acceptance.stack import ROOT, Stack

ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}  # as a proxy on this machine says it
IN_FORCE = 10.0  # seconds, within which a change of the file counts


class Operator:
    """Whoever writes a stack's keys file, with python -m app.admin."""

    def __init__(self, stack: Stack) -> None:
        self.path: Path = stack.directory / "keys.yaml"
        self.environment = {"API_KEYS_FILE": str(self.path)}

    async def types(self, *words: str) -> str:
        """The output of `keys` with these words."""
        command = [sys.executable, "-m", "app.admin", "keys", *words]
        environment = {**self.environment, "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=self.path.parent, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    async def key(self, *words: str) -> str:
        """A new key."""
        return (await self.types("new", "--tenant", "research", *words)).split()[-1]


async def listed(gateway: Gateway, key: str) -> set[str]:
    """The ids of the models that the key sees."""
    status, document = await get_json(f"{gateway.url}/models", key)
    return {model["id"] for model in document["data"]} if status == 200 else set()


def lists(gateway: Gateway, key: str, *models: str) -> Callable[[], object]:
    async def as_wanted() -> bool:
        return await listed(gateway, key) == set(models)

    return as_wanted


async def test_a_key_is_made_used_and_revoked_while_the_gateway_runs(memory_stack: Stack) -> None:
    operator = Operator(memory_stack)
    first = await operator.key("--id", "first")
    gateway = await memory_stack.gateway(**operator.environment)
    await until(lists(gateway, first, "echo"), "the demonstration model")
    second = await operator.key("--id", "second")
    await until(lists(gateway, second, "echo"), "the new key to count", IN_FORCE)
    async with gateway.openai(api_key=second) as sdk:
        reply = await sdk.chat.completions.create(model="echo", messages=HELLO)
        assert reply.choices[0].message.content
        await operator.types("revoke", "second")
        await until(lambda: is_refused(sdk), "the key to count no more", IN_FORCE)
    assert await listed(gateway, first) == {"echo"}
    await until(lambda: "tenant=research" in gateway.log, "the access line")
    for key in (first, second):
        assert key not in gateway.log
        assert key not in operator.path.read_text()


async def is_refused(sdk: openai.AsyncOpenAI) -> bool:
    try:
        await sdk.models.list()
    except openai.AuthenticationError:
        return True
    return False


async def test_a_file_that_breaks_keeps_the_last_good_keys_and_says_why(
    memory_stack: Stack,
) -> None:
    operator = Operator(memory_stack)
    key = await operator.key()
    gateway = await memory_stack.gateway(**operator.environment)
    await until(lists(gateway, key, "echo"), "the demonstration model")
    good = operator.path.read_text()
    operator.path.write_text(good + "- id: [")
    await until(lambda: "stay in force" in gateway.log, "the fault to be said", IN_FORCE)
    assert "is no YAML" in gateway.log
    assert await listed(gateway, key) == {"echo"}
    assert await in_force(gateway) == "0.0"
    operator.path.write_text(good.replace("tenant: research", "tenant: sales"))
    await until(lambda: "1 keys are in force" in gateway.log, "the repaired file", IN_FORCE)
    assert await in_force(gateway) == "1.0"
    async with gateway.openai(api_key=key) as sdk:
        await sdk.chat.completions.create(model="echo", messages=HELLO)
    await until(lambda: "tenant=sales" in gateway.log, "the access line")


async def in_force(gateway: Gateway) -> str:
    """What /metrics says of the keys file."""
    async with gateway.http() as http:
        found = re.search(
            r"^llm_gateway_keys_file_in_force (\S+)$",
            (await http.get("/metrics")).text,
            re.MULTILINE,
        )
    return found[1] if found else "nothing"


BROKEN = {
    "no YAML": ("keys:\n  - id: a\n id: b\n", "line 3"),
    "no hash": ("keys: [{id: a, tenant: t, hash: x}]", "key 1 ('a'): hash"),
}


@pytest.mark.parametrize(("content", "where"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_stops_the_start_and_is_named(
    memory_stack: Stack, content: str, where: str
) -> None:
    operator = Operator(memory_stack)
    operator.path.write_text(content)
    gateway = await memory_stack.gateway(ready=False, **operator.environment)
    assert await gateway.ended() != 0
    (line,) = gateway.log.splitlines()
    assert "API_KEYS_FILE" in line
    assert where in line


@pytest.mark.parametrize("key", ["changeme", "your-api-key-goes-here"])
async def test_a_guessable_key_stops_the_start_and_is_not_shown(
    memory_stack: Stack, key: str
) -> None:
    gateway = await memory_stack.gateway(ready=False, API_KEYS=key)
    assert await gateway.ended() != 0
    (line,) = gateway.log.splitlines()
    assert "API_KEYS: " in line
    assert key not in line


async def test_a_key_may_use_its_models_only_under_any_of_their_names(memory_stack: Stack) -> None:
    operator = Operator(memory_stack)
    key, other = await operator.key("--models", "nickname"), await operator.key()
    upstream = await memory_stack.upstream("sim", "other")
    memory_stack.models(
        {"id": "sim", "host": upstream.url, "aliases": ["nickname"]},
        {"id": "other", "host": upstream.url},
    )
    gateway = await memory_stack.gateway(ready=False, **operator.environment)
    await until(lists(gateway, other, "sim", "other"), "the models")
    assert await listed(gateway, key) == {"sim"}
    async with gateway.openai(api_key=key) as sdk:
        for name in ("sim", "nickname"):
            assert (await sdk.models.retrieve(name)).id == "sim"
            await sdk.chat.completions.create(model=name, messages=HELLO)
        for asked in (
            sdk.chat.completions.create(model="other", messages=HELLO),
            sdk.models.retrieve("other"),
        ):
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await asked
            assert refused.value.code == "model_not_allowed"
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="nowhere", messages=HELLO)
    assert (await upstream.stats()).started == 2


@pytest.mark.parametrize(
    "options", [(), ("--no-proxy-headers",)], ids=["uvicorn as it is", "as in the image"]
)
async def test_without_keys_only_this_machine_is_served(
    memory_stack: Stack, options: tuple[str, ...]
) -> None:
    gateway = await memory_stack.gateway(*options)
    await until(lists(gateway, "", "echo"), "the demonstration model")
    async with gateway.http() as http:
        assert (await http.post(CHAT, json=chat(model="echo"))).status_code == 200
        refused = await http.post(CHAT, json=chat(model="echo"), headers=ELSEWHERE)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "anonymous_refused")
        assert (await http.get("/v1/models", headers=ELSEWHERE)).status_code == 403
        assert (await http.get("/readyz", headers=ELSEWHERE)).status_code == 200
    assert "others get 403" in gateway.log


async def test_without_keys_everybody_is_served_if_the_operator_says_so(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway(ALLOW_ANONYMOUS="1")
    async with gateway.http() as http:
        assert (await http.get("/v1/models", headers=ELSEWHERE)).status_code == 200
    assert "every machine that reaches this gateway" in gateway.log


async def test_behind_a_proxy_published_on_loopback_no_key_is_needed(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(PUBLISHED_HOST="127.0.0.1")
    async with gateway.http() as http:
        assert (await http.get("/v1/models", headers=ELSEWHERE)).status_code == 200


def test_behind_a_proxy_that_others_reach_it_ends_at_once_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "app.main:application", "--port", "0"]
    environment = {"PYTHONPATH": str(ROOT), "BUS": "memory", "PUBLISHED_HOST": "0.0.0.0"}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("llm-gateway: GATEWAY_HOST: 0.0.0.0 is open to other machines")


def test_the_examples_settings_serve_nobody_else_without_a_key() -> None:
    lines = [
        line
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert not load_settings(dict(line.split("=", 1) for line in lines)).gateway.allow_anonymous
