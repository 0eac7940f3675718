"""Unit tests wait for nothing: their event loop has a clock of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.unit.virtual_time import VirtualLoop


@pytest.hookimpl
def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return {"virtual": VirtualLoop}
