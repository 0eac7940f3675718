"""What a gateway says of itself to whoever asks."""

from typing import Any

from app.errors import StoreUnavailable
from tests.unit.gateway.house import house


async def test_how_the_store_is_is_told_to_anybody_and_its_address_to_the_log_alone(
    monkeypatch, caplog
):
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("Redis: Error 111 connecting to 127.0.0.1:9701")

    async with house() as at:
        gateway = await at.gateway()
        assert await gateway.check_dependencies() == {"bus": "ok", "store": "ok"}
        monkeypatch.setattr(at.store, "get", away)
        assert (await gateway.check_dependencies())[
            "store"
        ] == "Redis is out of reach or does not answer in time"
    assert "127.0.0.1:9701" in caplog.text
