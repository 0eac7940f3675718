"""Requests of all gateways, seen from one of them: told in heartbeats, for as long as somebody
looks.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.gateway.accounting.recent_requests import RecentRequests
from app.gateway.gateway import Gateway
from app.gateway.operator.live_requests import LiveRequests
from app.protocol.heartbeats import GatewayHeartbeat, decode_heartbeat, encode_message
from tests.unit.gateway.house import Client, House, house, submission
from tests.unit.scene import MODEL, TOPICS, log_of, turns, until


@pytest.fixture
async def home() -> AsyncIterator[House]:
    async with house() as made:
        yield made


class Shop:
    """A gateway with what it shows."""

    def __init__(self, gateway: Gateway) -> None:
        self.name = gateway.dispatcher.owner
        self.gateway = gateway
        self.recent = RecentRequests()
        self.activity = LiveRequests(gateway, self.recent)
        gateway.snapshot_requests = self.activity.heartbeat_snapshot

    def answers(self, id_: str, when: float) -> None:
        self.recent.add_request(
            (when, (MODEL, "completions", 200, "completed"), {"request_id": id_})
        )

    def shows(self, kind: str) -> list[tuple[str, str]]:
        """Gateway and id of each."""
        return [(one["gateway"], one["id"]) for one in self.activity.cluster_snapshot()[kind]]

    async def comes_to_show(
        self, kind: str, expected: list[tuple[str, str]], seconds: float = 300.0
    ) -> None:
        await until(lambda: self.shows(kind) == expected, seconds)


@pytest.fixture
async def pair(home: House) -> tuple[Shop, Shop]:
    """Two that know each other."""
    first, second = [Shop(await home.gateway()) for _ in range(2)]
    await until(lambda: bool(first.gateway.other_gateways() and second.gateway.other_gateways()))
    return first, second


async def test_the_requests_of_all_gateways_are_shown_by_each(pair: tuple[Shop, Shop]) -> None:
    first, second = pair
    first.answers("old", 1.0)
    second.answers("middle", 2.0)
    first.answers("new", 3.0)
    client = Client(second.gateway.dispatcher.open_request(submission()))
    call = await client.waits()
    ended = [(first.name, "new"), (second.name, "middle"), (first.name, "old")]
    for one in pair:
        await one.comes_to_show("recent", ended)
        assert one.shows("running") == [(second.name, call.public_id)]
    await client.leaves()
    assert second.shows("running") == []
    await first.comes_to_show("running", [], 3)


async def told(home: House) -> list[GatewayHeartbeat]:
    """Every heartbeat of a gateway so far."""
    beats = [
        decode_heartbeat(record.value or b"") for record in await log_of(home.bus, TOPICS.workers)
    ]
    return [beat for beat in beats if isinstance(beat, GatewayHeartbeat)]


async def test_nothing_is_told_while_nobody_looks(home: House, pair: tuple[Shop, Shop]) -> None:
    first, second = pair
    second.answers("r", 1.0)
    await asyncio.sleep(5)
    assert not [beat for beat in await told(home) if beat.shown or beat.watched]
    await first.comes_to_show("recent", [(second.name, "r")])
    await asyncio.sleep(15)
    count = len(await told(home))
    await asyncio.sleep(5)
    assert not [beat for beat in (await told(home))[count:] if beat.shown or beat.watched]


async def test_who_is_looked_at_has_the_others_requests_without_waiting_for_their_next_heartbeat(
    pair: tuple[Shop, Shop],
) -> None:
    first, second = pair
    second.answers("r", 1.0)
    assert first.shows("recent") == []
    before = time.monotonic()
    await first.comes_to_show("recent", [(second.name, "r")])
    assert time.monotonic() - before < 0.5


async def test_of_very_many_a_heartbeat_tells_the_newest(
    home: House, pair: tuple[Shop, Shop]
) -> None:
    first, second = pair
    for number in range(120):
        second.answers(str(number), float(number))
    await until(lambda: bool(first.shows("recent")))
    assert [id_ for _, id_ in first.shows("recent")] == [
        str(number) for number in range(119, 69, -1)
    ]
    assert max(len(encode_message(beat)) for beat in await told(home)) < 100_000


@pytest.mark.parametrize("shown", [{}, {"running": [{"id": "r"}]}, {"else": [{}]}])
async def test_what_a_gateway_of_another_version_tells_breaks_nothing(
    home: House, shown: dict[str, Any]
) -> None:
    one = Shop(await home.gateway())
    beat = GatewayHeartbeat("other", TOPICS.replies, 1, time.time(), 1.0, shown=shown)
    await home.bus.send(TOPICS.workers, encode_message(beat), key=b"other", headers=[])
    await until(lambda: bool(one.gateway.other_gateways()))
    await turns()
    assert one.shows("running") == ([("other", "r")] if "running" in shown else [])
