"""What is measured: the gateway on Kafka with a worker, the gateway on the memory bus, and the way
straight to the upstream.
"""

import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.kafka import broker
from bench.processes import Process, free_port
from bench.upstream import MODEL


class Measured(Protocol):
    """Something whose cost is counted."""

    def cpu(self) -> float: ...

    def peak_mib(self) -> float: ...


@dataclass(frozen=True)
class Deployment:
    """An address, the processes behind it by name, and the bearer token that it wants."""

    url: str
    processes: Mapping[str, Measured] = field(default_factory=dict)
    key: str = ""


# Nothing of a user's own configuration; WORKER_CONCURRENCY as one would set it for an engine that
# takes so many at once.
_PLAIN = {
    "MODELS_FILE": "",
    "API_KEYS": "",
    "API_KEYS_FILE": "",
    "REDIS_URL": "",
    "SECOND_OPENAI_MODEL_NAME": "",
    "LOG_FORMAT": "json",
}


def _environment(**own: str) -> dict[str, str]:
    return {"WORKER_CONCURRENCY": os.environ.get("WORKER_CONCURRENCY", "1024"), **_PLAIN, **own}


@asynccontextmanager
async def upstream(directory: Path) -> AsyncIterator[tuple[str, Process]]:
    """The simulated one: its address and its process."""
    port = free_port()
    async with Process(
        "upstream", [sys.executable, "-m", "bench.upstream", "--port", str(port)], directory
    ) as process:
        url = f"http://127.0.0.1:{port}"
        await process.ready(f"{url}/v1/models")
        yield url, process


@asynccontextmanager
async def on_kafka(
    directory: Path, gateway_command: Sequence[str], upstream_url: str
) -> AsyncIterator[Deployment]:
    """Kafka, one gateway, one worker."""
    prefix = f"bench-{secrets.token_hex(4)}"
    async with broker(directory, prefix) as kafka:
        shared = _environment(BUS="kafka", BOOTSTRAP_SERVERS=kafka.servers, TOPIC_PREFIX=prefix)
        own = {"OPENAI_MODEL_NAME": MODEL, "OPENAI_HOST": upstream_url}
        worker = Process(
            "worker", [sys.executable, "-m", "app.agent"], directory, {**shared, **own}
        )
        async with (
            worker,
            _gateway("gateway-kafka", gateway_command, directory, shared) as (url, gateway),
        ):
            processes: dict[str, Measured] = {"gateway": gateway, "worker": worker}
            yield Deployment(url, {**processes, "kafka": kafka} if kafka.pid else processes)


@asynccontextmanager
async def on_memory(
    directory: Path, gateway_command: Sequence[str], upstream_url: str
) -> AsyncIterator[Deployment]:
    """One process, as `make run` starts it."""
    own = _environment(BUS="memory", FIRST_OPENAI_MODEL_NAME=MODEL, FIRST_OPENAI_HOST=upstream_url)
    async with _gateway("gateway-memory", gateway_command, directory, own) as (url, gateway):
        yield Deployment(url, {"gateway": gateway})


@asynccontextmanager
async def straight(upstream_url: str) -> AsyncIterator[Deployment]:
    """Nothing between."""
    yield Deployment(upstream_url)


@asynccontextmanager
async def _gateway(
    name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[tuple[str, Process]]:
    port = free_port()
    async with Process(name, [*command, "--port", str(port)], directory, environment) as process:
        url = f"http://127.0.0.1:{port}"
        await process.ready(f"{url}/readyz")
        yield url, process
