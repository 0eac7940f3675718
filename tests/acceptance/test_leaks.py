"""A busy deployment, and nothing of what it was entrusted with in its logs, metrics, traces, or its
records' keys and headers.
"""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import pytest
import pytest_asyncio

from app.config.api_keys_file import KeyEntry, hash_key, write_keys
from tests.acceptance.busy import BREAKS_OFF, ELSEWHERE, GOES_ON, MOST, Scene, be_busy
from tests.acceptance.leaks import Said, Secrets, records_of
from tests.acceptance.reading import Clients
from tests.acceptance.services import Gateway
from tests.acceptance.stack import SERVERS, Stack
from tests.otlp_receiver import Receiver, receiving
from tests.redis_server import running_redis

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    """After the busy run, when all has been collected that the deployment said."""
    hidden = Secrets({"a reply's tokens": "tok0", "a later token": "tok3"})
    password = hidden.new("the password of Redis")
    with receiving() as receiver, ExitStack() as redis:
        environment = {
            "LOG_LEVEL": "DEBUG",
            "REDIS_URL": redis.enter_context(running_redis(password=password)),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={hidden.new('the key of the collector')}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OPENAI_TOKEN": hidden.new("the token of the upstream", "sk-"),
            "OPERATOR_KEYS": hidden.new("an operator's key", "op-"),
            "MAX_BODY_BYTES": str(MOST),
            "UPSTREAM_RETRIES": "1",
            "HEARTBEAT_SECONDS": "0.3",
        }
        async with Stack("leaks", **environment) as stack, Clients() as clients:
            gateway = await gateway_of(stack, hidden)
            front = stack.nginx(gateway, MAX_BODY_BYTES=str(MOST))
            upstream = await stack.upstream(GOES_ON, BREAKS_OFF)
            scene = Scene(stack, clients, hidden, Said(), upstream, gateway, front, redis)
            await be_busy(scene)
            await collect(scene, receiver)
            yield scene


async def gateway_of(stack: Stack, hidden: Secrets) -> Gateway:
    """With a key that may ask once a minute, and another."""
    limited, free = hidden.new("a limited key", "sk-"), hidden.new("a key", "sk-")
    entries = [KeyEntry(id="free", tenant="free", hash=hash_key(free.encode()))]
    entries.append(KeyEntry(id="limited", tenant="limited", hash=hash_key(limited.encode()), rpm=1))
    write_keys(stack.directory / "keys.yaml", entries)
    gateway = await stack.gateway(ready=False, API_KEYS_FILE=str(stack.directory / "keys.yaml"))
    gateway.key = free
    await gateway.ready()
    return gateway


async def collect(scene: Scene, receiver: Receiver) -> None:
    said, prefix = scene.said, scene.stack.prefix
    key = scene.hidden.known["an operator's key"]
    operator = {**ELSEWHERE, "authorization": f"Bearer {key}"}
    for path in ("/metrics", "/admin/overview"):
        await scene.look_at_metrics("the gateway", scene.gateway.port, path, **operator)
    for process in scene.stack.processes:
        process.terminate()
        await process.ended()
    said.add_logs(scene.stack)
    for number, body in enumerate(receiver.bodies):
        said.add(f"OTLP body {number}", body)
    for topic, records in (await records_of(SERVERS, prefix)).items():
        said.add_records(
            records,
            values=topic in {f"{prefix}.{kind}" for kind in ("workers", "models", "control")},
        )


async def test_nothing_that_was_entrusted_is_in_what_the_deployment_says(scene: Scene) -> None:
    assert scene.said.leaks(scene.hidden) == []


async def test_the_search_looked_at_every_kind_of_output(scene: Scene) -> None:
    wheres = {where for where, _ in scene.said.texts}
    assert {
        f"{name}.log" for name in ("gateway-1", "worker-1", "worker-2", "worker-3", "nginx")
    } <= wheres
    for kind in (
        "/metrics of",
        "/admin/overview of",
        "OTLP body",
        "key of",
        "header path of",
        "value of",
        "header dlq-reason of",
    ):
        assert any(where.startswith(kind) for where in wheres), kind


async def test_what_was_entrusted_is_where_it_belongs_and_is_found_there(scene: Scene) -> None:
    prefix, values = scene.stack.prefix, Said()
    for topic, records in (await records_of(SERVERS, prefix)).items():
        if topic.startswith((f"{prefix}.requests.", f"{prefix}.replies", f"{prefix}.dlq")):
            values.add_records(records, values=True)
    found = {line.partition(" in ")[0] for line in values.leaks(scene.hidden)}
    assert {
        "a text",
        "a reply's tokens",
        "what an upstream says of an error",
        "an undecodable record",
    } <= found
    assert len([name for name in found if name.startswith("prompt ")]) > 10


SHOWN: dict[str, Callable[[str], str]] = {
    "whole": lambda key: key,
    "its beginning": lambda key: key[:12],
    **{
        f"in base64 behind {n}": lambda key, n=n: base64.b64encode(
            f"{'u' * n}{key}:".encode()
        ).decode()
        for n in range(4)
    },
}


@pytest.mark.parametrize("shape", SHOWN)
async def test_a_secret_is_found_whole_by_its_beginning_and_in_base64(shape: str) -> None:
    hidden = Secrets()
    key = hidden.new("a key", "sk-")
    assert hidden.found_in("a log", f"it says {SHOWN[shape](key)} here".encode())
    assert not hidden.found_in("a log", f"it says {key[4:]} here".encode())
