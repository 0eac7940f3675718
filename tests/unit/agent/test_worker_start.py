"""A worker says that it is ready once it has joined its group, and not before."""

import asyncio
from typing import Any

import pytest

from app.agent.worker import Worker
from app.config.model_entry import ModelEntry
from app.errors import BusError
from app.protocol.reply_state import COMPLETED
from app.telemetry.metrics import REGISTRY
from tests.unit.agent.scripted_engine import ScriptedEngine
from tests.unit.agent.workshop import workshop
from tests.unit.scene import settings, started_bus, until


async def test_one_that_cannot_join_is_not_ready_and_joins_once_it_can(monkeypatch, caplog):
    async with workshop() as shop:
        join, refusals = shop.bus.group_reader, ["no consumer can be made"] * 3

        async def refusing(*arguments: Any, **options: Any) -> Any:
            if refusals:
                raise BusError(refusals.pop())
            return await join(*arguments, **options)

        monkeypatch.setattr(shop.bus, "group_reader", refusing)
        worker = await shop.worker(ScriptedEngine(), join=False)
        starting = asyncio.create_task(worker.start())
        said = []
        while refusals:
            said.append(worker.unready())
            await asyncio.sleep(0.1)
        assert "" not in said
        assert "no consumer can be made" in caplog.text
        await starting
        await until(lambda: not worker.unready())
        assert (await shop.ended(await shop.ask())).state.outcome == COMPLETED


@pytest.mark.parametrize("counter", ["takeovers", "upstream_retries", "dead_letters"])
async def test_what_it_counts_is_0_before_there_is_one_so_that_the_first_is_an_increase(counter):
    entry, ours = ModelEntry(id=f"new-{counter}", host="http://up"), settings()
    Worker(await started_bus(), ours.bus, ours.worker, entry, ScriptedEngine())
    assert REGISTRY.get_sample_value(f"llm_gateway_{counter}_total", {"model": entry.id}) == 0
