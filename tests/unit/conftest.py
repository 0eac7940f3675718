"""Unit tests wait for nothing, their event loop has a clock of its own; and they try the same
examples each time.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.unit.agent.workshop import Workshop, workshop
from tests.unit.cluster.membership_scene import Scene
from tests.unit.scene import started_bus
from tests.unit.virtual_time import VirtualLoop

settings.register_profile(
    "unit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], Any]]:
    return {"virtual": VirtualLoop}


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A gateway's membership, and others that send heartbeats when a test says so."""
    found = Scene(await started_bus())
    yield found
    found.queues.close()
    await found.presence.close()


@pytest.fixture
async def shop() -> AsyncIterator[Workshop]:
    """A worker on the memory bus, with a scripted engine."""
    async with workshop() as made:
        yield made
