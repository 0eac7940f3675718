"""Limits before a request's body is read, and places of clients that do not read their replies."""

import asyncio
from typing import Any

import pytest

from app.errors import RateLimited
from app.gateway.access.authentication import Caller, Limits
from tests.unit.gateway.access.test_limits import Door


def state(models: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"caller": Caller("t", allowed_models=frozenset(models), limits=Limits(rpm=1))}


async def test_a_minute_that_is_used_up_with_every_model_is_refused_before_the_body() -> None:
    door, asked = Door(), state()
    door.limiter.refuse_if_used_up(asked)
    await door.asks(rpm=1)
    await door.is_refused(rpm=1)
    door.limiter.refuse_if_used_up(asked)  # the other model is left
    await door.asks(rpm=1, model="other")
    await door.is_refused(rpm=1, model="other")
    with pytest.raises(RateLimited) as refused:
        door.limiter.refuse_if_used_up(asked)
    assert refused.value.retry_after_seconds == 60
    assert dict(asked["grant"].add_limit_headers([]))[b"x-ratelimit-remaining-requests"] == b"0"
    door.now += 60
    door.limiter.refuse_if_used_up(state())


async def test_a_key_of_one_model_is_refused_once_that_one_is_used_up() -> None:
    door = Door()
    await door.asks(rpm=1)
    await door.is_refused(rpm=1)
    with pytest.raises(RateLimited):
        door.limiter.refuse_if_used_up(state(("nickname",)))
    door.limiter.refuse_if_used_up({"caller": Caller("another", limits=Limits(rpm=1))})


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_client_that_does_not_read_keeps_its_place(size: int) -> None:
    door, taken = Door(), asyncio.Event()
    door.drain = taken.wait  # type: ignore[assignment]
    request = await door.asks(concurrent=1)
    await request.send({"type": "http.response.start", "status": 200, "headers": []})
    sending = asyncio.create_task(request.send({"type": "http.response.body", "body": b"x" * size}))
    for _ in range(10):
        await asyncio.sleep(0)
    await door.is_refused(concurrent=1)
    taken.set()
    await sending
    await door.asks(concurrent=1)
