"""What a chaos run puts to the test: nginx, two gateways, three workers of two models, Kafka and
Redis, all its own.
"""

import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.acceptance.processes import Process, until
from tests.acceptance.services import Endpoint, Gateway, Upstream, Worker
from tests.acceptance.stack import Stack
from tests.chaos.broker import Broker
from tests.chaos.log import write_down
from tests.chaos.schedule import GATEWAY, KAFKA, KILL, STOP, WORKER, Fault
from tests.redis_server import running_redis

MODELS = ("alpha", "beta")
DEADLINE = 180.0  # seconds, of every request
_DRAIN = 3.0  # seconds; shorter than the longest replies, so that some are handed on
_END_SECONDS = 60.0  # a process that was told to end has ended by then
_ENVIRONMENT = {
    "REQUEST_TIMEOUT_SECONDS": f"{DEADLINE:g}",
    "DRAIN_SECONDS": f"{_DRAIN:g}",
    "BUS_ADMIT_TIMEOUT_SECONDS": "3",
    "WORKER_CONCURRENCY": "8",
    "LOG_FORMAT": "json",
}


class Victim(Protocol):
    """What a fault is done to."""

    name: str

    def kill(self) -> None: ...
    def terminate(self) -> None: ...
    def stop(self) -> None: ...
    def cont(self) -> None: ...
    def start_again(self) -> None: ...
    async def ended(self, seconds: float = ...) -> Any: ...


@dataclass
class Deployment:
    stack: Stack
    broker: Broker
    upstream: Upstream
    workers: Sequence[Worker]
    gateways: Sequence[Gateway]
    front: Endpoint  # nginx

    @property
    def ours(self) -> list[Process]:
        return [*self.workers, *self.gateways]

    @property
    def targets(self) -> dict[str, list[str]]:
        """The names of those that may suffer, by kind."""
        names = {WORKER: self.workers, GATEWAY: self.gateways}
        return {
            **{kind: [one.name for one in them] for kind, them in names.items()},
            KAFKA: [self.broker.name],
        }

    @property
    def victims(self) -> dict[str, Victim]:
        return {one.name: one for one in (*self.ours, self.broker)}

    async def ready(self) -> None:
        """Returns when every process does its work again."""
        await self.broker.start()
        for gateway in self.gateways:
            await gateway.ready()
            await until(
                lambda one=gateway: self._serves(one),
                f"{gateway.name} to list every worker",
                _END_SECONDS,
            )

    async def _serves(self, gateway: Gateway) -> bool:
        return [model["workers"] for model in (await gateway.models()).values()] == [
            len(self.workers)
        ] * len(MODELS)

    def keep_logs(self) -> Path:
        """What every process has printed, and every record of the log, in a directory that
        stays.
        """
        kept = Path(tempfile.mkdtemp(prefix="chaos-"))
        for log in self.stack.directory.glob("*.log"):
            shutil.copy(log, kept)
        shutil.copy(self.broker.log, kept / "kafka.log")
        write_down(self.broker.servers, kept / "records.txt")
        return kept


@asynccontextmanager
async def deployed() -> AsyncIterator[Deployment]:
    """All of it, ready, and cleared away behind the block."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory, running_redis() as redis:
        broker = Broker(Path(directory))
        try:
            await broker.start()
            async with Stack(
                "chaos", BOOTSTRAP_SERVERS=broker.servers, REDIS_URL=redis, **_ENVIRONMENT
            ) as stack:
                deployment = await _started(stack, broker)
                await deployment.ready()
                yield deployment
        finally:
            broker.clear_away()


async def _started(stack: Stack, broker: Broker) -> Deployment:
    upstream = await stack.upstream(*MODELS)
    stack.models(*({"id": model, "host": upstream.url, "continues": True} for model in MODELS))
    workers = [stack.agent(MODELS) for _ in range(3)]
    gateways = [await stack.gateway(ready=False) for _ in range(2)]
    return Deployment(stack, broker, upstream, workers, gateways, stack.nginx(*gateways))


async def carry_out(faults: Sequence[Fault], victims: Mapping[str, Victim]) -> None:
    """Does each fault at its time; a process's next one waits until it has recovered from the one
    before.
    """
    began = time.monotonic()
    turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(began + fault.at - time.monotonic())
            group.create_task(_suffer(fault, victims[fault.target], turns[fault.target]))


async def _suffer(fault: Fault, victim: Victim, turn: asyncio.Lock) -> None:
    async with turn:
        if fault.action == STOP:
            victim.stop()
            await asyncio.sleep(fault.away)
            victim.cont()
            return
        victim.kill() if fault.action == KILL else victim.terminate()
        await victim.ended(_END_SECONDS)
        await asyncio.sleep(fault.away)
        victim.start_again()
