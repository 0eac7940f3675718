"""A client with a key that leaves: it may come back, another may wait for the same reply, and only
then it is cancelled.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.openai_api.sse import DONE_EVENT
from app.protocol.records import ControlRecord
from app.protocol.reply_state import CANCELLED, COMPLETED
from tests.unit.gateway.house import House, house, keyed
from tests.unit.scene import turns

WHOLE = b'data: {"n":1}\n\n' + DONE_EVENT


@pytest.fixture
async def at() -> AsyncIterator[House]:
    async with house(CANCEL_GRACE_SECONDS="30") as made:
        await made.gateway()
        await made.gateway()
        yield made


@pytest.mark.parametrize("gateway", [0, 1])
async def test_a_client_that_stays_away_is_given_its_grace_and_then_the_request_is_cancelled(
    at, gateway
):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    if gateway:
        await one.leaves()
        one = keyed(at.gateways[1])
        await one.waits()
    await one.leaves()
    await asyncio.sleep(29)
    assert at.controls == []
    await asyncio.sleep(2)
    assert [(control.kind, control.id) for control in at.controls] == [
        (ControlRecord.CANCEL, asked.id)
    ]
    found = await at.gateways[0].request_views.find_request(one.public_id, "t")
    assert found.status == CANCELLED


@pytest.mark.parametrize("gateway", [0, 1])
async def test_a_client_that_comes_back_in_time_finds_its_request_running(at, gateway):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    await at.begin(asked)
    await one.leaves()
    await asyncio.sleep(20)
    back = keyed(at.gateways[gateway])
    await back.waits()
    await asyncio.sleep(20)
    await at.complete(asked)
    assert await back.reply() == WHOLE
    assert (at.controls, len(at.requests)) == ([], 1)


@pytest.mark.parametrize("gateway", [0, 1])
async def test_while_another_waits_nobodys_leaving_cancels(at, gateway):
    first = keyed(at.gateways[0])
    asked = await at.arrived(1)
    second = keyed(at.gateways[gateway])
    await second.waits()
    await second.leaves()
    await asyncio.sleep(40)
    assert at.controls == []
    await at.begin(asked)
    await at.complete(asked)
    assert await first.reply() == WHOLE


async def test_without_grace_a_client_that_leaves_cancels_at_once(at):
    one = keyed(at.gateways[0], grace=False)
    asked = await at.arrived(1)
    await one.leaves()
    await turns()
    assert [control.id for control in at.controls] == [asked.id]


async def test_what_completes_during_the_grace_is_completed(at):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    await at.begin(asked)
    await one.leaves()
    await at.complete(asked)
    await asyncio.sleep(60)
    assert at.controls == []
    assert (await at.gateways[1].request_views.find_request(one.public_id, "t")).status == COMPLETED
    assert await keyed(at.gateways[1]).reply() == WHOLE


async def test_when_the_store_does_not_say_whether_it_came_back_the_request_goes_on(
    at, monkeypatch
):
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("Redis: gone")

    one = keyed(at.gateways[0])
    await at.arrived(1)
    for name in ("get", "compare_and_swap"):
        monkeypatch.setattr(at.store, name, away)
    await one.leaves()
    await asyncio.sleep(40)
    assert at.controls == []
