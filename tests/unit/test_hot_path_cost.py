"""What a request costs in our own code, in bytecode instructions: the same on every machine, so a
dearer path is seen at once.

Gateway and worker in one process; the memory bus, the engine and what runs in C are not counted.
Where a change makes a path dearer on purpose, or cheaper, the figures here are set anew: a failure
says what they are.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import pytest

from app.agent.engines.echo import EchoEngine
from app.agent.reply.reply_batcher import PACE_SECONDS
from app.agent.worker import Worker
from app.bus.factory import make_bus
from app.config.models_file import load_embedded_models
from app.config.settings import load_settings
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.request_metrics import RequestMetrics
from app.gateway.gateway import Gateway
from app.gateway.http.asgi import App, Message
from app.gateway.middleware import FastPathRouter, RequestMiddleware
from app.gateway.routes.inference import InferenceEndpoint
from app.stores.memory import MemoryStore
from tests.unit.scene import until

# Instructions by version of Python, as each has its own.
REQUEST = {(3, 11): 6320}
TOKEN = {(3, 11): 1227}  # of a stream, in a record of its own
JOINED = {(3, 11): 249}  # in one with many others
ALLOWED = 1.15

APP = Path(__file__).parents[2] / "app"
NOT_OURS = (str(APP / "bus" / "memory"), str(APP / "agent" / "engines"))
VERSION = sys.version_info[:2]


class Counter:
    def __init__(self) -> None:
        self.instructions = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(str(APP)) or name.startswith(NOT_OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.instructions += event == "opcode"
        return self._stepped


@dataclass
class Served:
    app: App
    access_log: AccessLog
    gateway: Gateway
    worker: Worker

    async def close(self) -> None:
        await self.worker.drain(1)
        await self.gateway.close()


async def served(pause: float = 0.0) -> Served:
    settings = load_settings({"BUS": "memory"})
    bus = make_bus(settings.bus)
    gateway = Gateway(bus, MemoryStore(), settings)
    [entry] = load_embedded_models(settings)
    worker = Worker(
        bus, settings.bus, settings.worker, entry, EchoEngine(entry, settings.worker, pause=pause)
    )
    await bus.start()
    await worker.start()
    await gateway.start()
    await until(
        lambda: any(
            known.serving and known.serving[0].partitions for known in gateway.model_registry.all()
        )
    )
    access_log = AccessLog(RequestMetrics(gateway.model_registry))
    edge = RequestMiddleware(
        InferenceEndpoint(gateway), Authenticator(settings.gateway), access_log
    )
    return Served(FastPathRouter(edge, edge), access_log, gateway, worker)


async def cost(served: Served, **body: Any) -> int:
    """Of one chat."""
    asked = {"model": "echo", "messages": [{"role": "user", "content": "word " * 100}], **body}
    received = [{"type": "http.request", "body": orjson.dumps(asked)}]
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop() if received else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/v1/chat/completions"
    head = [
        (b"host", b"localhost:8000"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"y"),
        (b"accept", b"*/*"),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": head,
    }
    counter = Counter()
    with counter.counting():
        await served.app({**scope, "client": ("127.0.0.1", 1), "state": {}}, receive, send)
        served.access_log.flush()
    assert sent[0]["status"] == 200
    return counter.instructions


async def least(served: Served, **body: Any) -> int:
    """Of several: heartbeats come in between."""
    return min([await cost(served, **body) for _ in range(8)])


def check(found: float, figures: dict[tuple[int, int], int]) -> None:
    if VERSION not in figures:
        pytest.skip(f"no figure for Python {VERSION[0]}.{VERSION[1]}; here it is {found:.0f}")
    assert found <= figures[VERSION] * ALLOWED, (
        f"{found:.0f} instructions, and {figures[VERSION]} were known"
    )
    assert found >= figures[VERSION] / ALLOWED, f"cheaper by far: set the figure to {found:.0f}"


async def test_a_request_costs_no_more_than_it_did() -> None:
    setup = await served()
    check(await least(setup, max_tokens=4), REQUEST)
    await setup.close()


@pytest.mark.parametrize(
    ("pause", "figures"), [(2 * PACE_SECONDS, TOKEN), (0.0, JOINED)], ids=["by itself", "joined"]
)
async def test_a_token_costs_no_more_than_it_did(
    pause: float, figures: dict[tuple[int, int], int]
) -> None:
    setup = await served(pause)
    few, many = (
        await least(setup, max_tokens=4, stream=True),
        await least(setup, max_tokens=68, stream=True),
    )
    check((many - few) / 64, figures)
    await setup.close()
