from collections.abc import AsyncIterator

import pytest

from tests.unit.agent.workshop import Workshop, workshop


@pytest.fixture
async def shop() -> AsyncIterator[Workshop]:
    async with workshop() as made:
        yield made
