"""A whole deployment as real processes on free ports, with topics of its own, for one test or one
module of tests:

    async with Stack() as stack:
        up = await stack.upstream(gap=0.05)
        worker = await stack.worker("sim", up)
        gateway = await stack.gateway()
        reply = await gateway.openai().chat.completions.create(model="sim", messages=[...])
        worker.kill()

Each handle has kill(), terminate(), stop(), cont(), restart(), ended() and log. On leaving,
everything is ended and the topics are deleted; a process that ended by itself, or that logged a
traceback, fails the test.
"""

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import yaml

from tests.acceptance.heartbeats import Heartbeats, delete_topics
from tests.acceptance.processes import Process, until
from tests.acceptance.services import Endpoint, Gateway, Upstream, Worker
from tests.nginx import free_port, running_nginx

Kind = TypeVar("Kind", bound=Process)

ROOT = Path(__file__).parents[2]
SERVERS = os.environ.get("BOOTSTRAP_SERVERS") or "127.0.0.1:9093"
VLLM_URL = os.environ.get("VLLM_URL") or "http://127.0.0.1:8011"
VLLM_MODEL = "Qwen/tiny"

# Few partitions: each test has topics of its own on a broker that all tests share, and that may be
# slow for all at once.
_DEFAULTS = {
    "KAFKA_REQUEST_PARTITIONS": "8",
    "KAFKA_RESPONSE_PARTITIONS": "4",
    "BUS_ADMIT_TIMEOUT_SECONDS": "60",
    "LOG_FORMAT": "text",
}


class Stack:
    """`bus` is kafka or memory; `environment` goes to every gateway and worker."""

    open: ClassVar[list["Stack"]] = []  # for the logs of a failing test

    def __init__(self, name: str = "test", *, bus: str = "kafka", **environment: str) -> None:
        self.bus = bus
        self.prefix = f"{name}-{secrets.token_hex(4)}"
        self.processes: list[Process] = []
        self.expect_tracebacks = False
        self._own = ExitStack()
        self._models: tuple[str, ...] = ()
        self._environment = {**_DEFAULTS, "BUS": bus, "TOPIC_PREFIX": self.prefix, **environment}
        self._servers = environment.get("BOOTSTRAP_SERVERS", SERVERS)
        self._beats = Heartbeats(self._servers, f"{self.prefix}.workers")
        if bus == "kafka":
            self._environment["BOOTSTRAP_SERVERS"] = self._servers

    async def __aenter__(self) -> Self:
        if self.bus == "kafka":
            _require_kafka(self._servers)
        self.directory = Path(
            self._own.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.prefix}-"))
        )
        Stack.open.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        faults = [fault for process in self.processes for fault in self.faults(process)]
        logs = self.logs()
        for process in self.processes:
            process.clear_away()
        self._beats.close()
        self._own.close()
        if self.bus == "kafka":
            await asyncio.to_thread(delete_topics, self._servers, self.prefix)
        Stack.open.remove(self)
        if kind is not None or faults:
            print(*(f"--- {name}\n{tail}" for name, tail in logs), sep="\n")
        assert kind is not None or not faults, "; ".join(faults)

    def faults(self, process: Process) -> list[str]:
        """What a process did that it never should."""
        found = [f"{process.name} ended by itself"] if process.died else []
        if "Traceback (most recent call last)" in process.log and not self.expect_tracebacks:
            found.append(f"{process.name} logged a traceback")
        return found

    def logs(self) -> list[tuple[str, str]]:
        """Name and last lines of every process."""
        return [(process.name, process.tail) for process in self.processes]

    def models(self, *entries: Mapping[str, Any]) -> None:
        """Writes MODELS_FILE, for all gateways and workers that are started from now on."""
        path = self.directory / "models.yaml"
        path.write_text(yaml.safe_dump({"models": [dict(entry) for entry in entries]}))
        self._environment["MODELS_FILE"] = str(path)
        self._models = tuple(entry["id"] for entry in entries)

    async def upstream(
        self,
        *models: str,
        port: int = 0,
        ttft: float = 0.0,
        gap: float = 0.0,
        natural: int = 16,
        owned_by: str = "vllm",
    ) -> Upstream:
        """A simulated upstream for `models` (sim); times in seconds."""
        port = port or free_port()
        options = {"port": port, "ttft": ttft, "gap": gap, "natural": natural, "owned-by": owned_by}
        command = [
            sys.executable,
            "-m",
            "tests.upstream",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        command += [f"--model={model}" for model in models]
        upstream = self._add(
            Upstream(port, self._name("upstream"), command, self._env({}), self.directory)
        )
        await upstream.ready()
        return upstream

    async def worker(
        self,
        model: str = "",
        upstream: Upstream | str = "",
        *,
        ready: bool = True,
        **environment: str,
    ) -> Worker:
        """A worker of `model`, or of all in `models()`. Returns when every gateway lists it, or at
        once if not `ready`.
        """
        assert self.bus == "kafka", "on the memory bus the gateway's process has the workers"
        if model:
            environment = {
                "OPENAI_MODEL_NAME": model,
                "OPENAI_HOST": _host(upstream),
                **environment,
            }
        models = (model,) if model else self._models
        worker = self.agent(models, set(await self._beats.read()), **environment)
        if ready:
            await worker.ready()
            await self._all_listed()
        return worker

    def agent(
        self, models: tuple[str, ...] = (), known: Iterable[str] = (), **environment: str
    ) -> Worker:
        """`python -m app.agent` with just this environment, not waited for."""
        command = [sys.executable, "-m", "app.agent"]
        process = (self._name("worker"), command, self._env(environment), self.directory)
        return self._add(Worker(models, self._beats, set(known), *process))

    async def gateway(
        self, *options: str, port: int = 0, ready: bool = True, **environment: str
    ) -> Gateway:
        """A gateway; `options` are uvicorn's. Returns when it is ready and lists every worker, or
        at once if not `ready`.
        """
        port = port or free_port()
        ours = ["app.main:application", "--http=app.gateway.http.connection:Connection"]
        command = [sys.executable, "-m", "uvicorn", *ours, f"--port={port}", *options]
        key = environment.get("API_KEYS", "").partition(",")[0]
        gateway = self._add(
            Gateway(
                port, key, self._name("gateway"), command, self._env(environment), self.directory
            )
        )
        if ready:
            await gateway.ready()
            await self._all_listed()
        return gateway

    def nginx(self, *gateways: Gateway, **settings: str) -> Endpoint:
        """nginx, from the project's configuration, in front of the gateways; `settings` are
        nginx/start.sh's variables.
        """
        ports = [gateway.port for gateway in gateways]
        port = self._own.enter_context(
            running_nginx(ports, settings, log_to=self.directory / "nginx.log")
        )
        return Endpoint(port, gateways[0].key)

    async def _all_listed(self) -> None:
        """Every gateway that runs lists every worker that runs."""
        workers = [
            worker for worker in self.processes if isinstance(worker, Worker) and worker.running
        ]
        expected = [model for worker in workers for model in worker.owners]
        if self.bus == "memory":
            expected = list(self._models)
        for gateway in self.processes:
            if isinstance(gateway, Gateway) and gateway.running:
                await until(
                    lambda one=gateway: _lists(one, expected),
                    f"{gateway.name} to list the workers of {expected}",
                )

    def _add(self, process: Kind) -> Kind:
        self.processes.append(process)
        return process

    def _name(self, kind: str) -> str:
        return f"{kind}-{1 + sum(process.name.startswith(kind) for process in self.processes)}"

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        """Nothing of the tester's own settings gets in; the directory has no .env."""
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **base,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
            **more,
        }


async def _lists(gateway: Gateway, expected: list[str]) -> bool:
    listed = await gateway.models()
    return all(
        model in listed and listed[model]["workers"] >= expected.count(model) for model in expected
    )


def _host(upstream: Upstream | str) -> str:
    return upstream if isinstance(upstream, str) else upstream.url


def _require_kafka(servers: str) -> None:
    host, _, port = servers.partition(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise AssertionError(
            f"no Kafka at {servers} ({error}): start one (scripts/kafka.sh start)"
        ) from None
