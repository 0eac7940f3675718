"""The workers of one process: each begins by itself, and a fault in one leaves the others alone."""

from typing import Any

import pytest

from app.agent.engines.echo import EchoEngine
from app.agent.fleet import Fleet
from app.config.model_entry import ModelEntry
from tests.unit.scene import settings, started_bus, until


async def broken_start(_self: Any) -> None:
    raise RuntimeError("nobody has thought of this")


@pytest.fixture
async def fleet(monkeypatch):
    whole_start = EchoEngine.start
    starts = [broken_start, whole_start]
    monkeypatch.setattr(EchoEngine, "start", lambda engine: starts.pop(0)(engine))
    entries = [ModelEntry(id="broken", engine="echo"), ModelEntry(id="whole", engine="echo")]
    fleet = Fleet(await started_bus(), settings(), entries)
    fleet.start()
    yield fleet
    await fleet.drain()


async def test_a_worker_that_cannot_start_says_so_and_the_others_serve(fleet):
    await until(lambda: len(fleet.unready()) == 1 and "failed" in fleet.unready()[0])
    assert fleet.unready() == ["model broken: its start failed (RuntimeError); its log says why"]
