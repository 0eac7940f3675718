"""What a gateway knows of the others: who lives, who has fallen silent, how long the queues are and how fast they move."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.bus.base import Record, Start
from app.catalog import Catalog, Known
from app.contracts.presence import GatewayBeat, ModelCard, WorkerBeat, decode_beat, encode
from app.gateway.placement import Placement
from app.gateway.presence import Presence
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, request, send_request, started_bus, turns, until

GROUP = "llm.m"
CARD = ModelCard(MODEL, REQUESTS, GROUP)


class Scene:
    """A gateway's presence, and others that beat when a test says so."""

    def __init__(self, bus: ScriptedBus) -> None:
        self.bus = bus
        self.catalog = Catalog()
        self.placement = Placement()
        self.leaving = False
        self.presence = Presence(bus, TOPICS, self.catalog, self.placement, 1.0, self._describe)

    def _describe(self) -> GatewayBeat:
        return GatewayBeat("me", TOPICS.replies, 0, time.time(), 1.0, leaving=self.leaving)

    async def card(self, card: ModelCard) -> None:
        await self.bus.send(TOPICS.models, encode(card), key=card.model.encode(), headers=[])

    async def worker(self, name: str, **members: Any) -> None:
        about = {"replies": TOPICS.replies, "time": time.time(), "interval": 1.0, **members}
        await self.beats(encode(WorkerBeat(name, MODEL, REQUESTS, GROUP, **about)))

    async def gateway(self, name: str, **members: Any) -> None:
        beat = GatewayBeat(name, TOPICS.replies, **{"partition": 1, "time": time.time(), "interval": 1.0, **members})
        await self.beats(encode(beat))

    async def beats(self, value: bytes) -> None:
        await self.bus.send(TOPICS.workers, value, key=b"k", headers=[("v", b"1")])
        await turns()

    async def begin(self) -> None:
        await self.presence.start()
        self.presence.begin_beats()
        await turns()

    def known(self) -> Known:
        found = self.catalog.find(MODEL)
        assert found is not None
        return found


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    found = Scene(await started_bus())
    yield found
    await found.presence.close()


async def test_every_model_and_worker_that_was_there_is_known_at_the_start(scene):
    await scene.card(ModelCard("old", "t", "g"))
    await scene.card(CARD)
    await scene.bus.send(TOPICS.models, None, key=b"old", headers=[])
    await scene.worker("w", capacity=3)
    await scene.begin()
    assert [known.card.model for known in scene.catalog.all()] == [MODEL]
    assert scene.known().capacity == 3


async def test_models_come_and_go(scene):
    await scene.begin()
    await scene.card(CARD)
    await turns()
    assert scene.known().card == CARD
    await scene.bus.send(TOPICS.models, None, key=MODEL.encode(), headers=[])
    await turns()
    assert scene.catalog.all() == []


async def test_a_worker_that_falls_silent_is_buried_after_three_of_its_own_intervals(scene):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("quick", interval=1.0)
    await scene.worker("slow", interval=5.0)
    await asyncio.sleep(2.5)
    assert set(scene.known().workers) == {"quick", "slow"}
    await until(lambda: set(scene.known().workers) == {"slow"}, 3)
    await until(lambda: not scene.known().workers, 15)
    await scene.worker("quick")
    assert set(scene.known().workers) == {"quick"}


async def test_a_worker_that_leaves_is_gone_at_once(scene):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("w")
    await scene.worker("w", leaving=True)
    assert scene.known().workers == {}


async def test_a_worker_that_replies_elsewhere_is_not_counted_and_said_once(scene, caplog):
    await scene.card(CARD)
    await scene.begin()
    for _ in range(3):
        await scene.worker("w", replies="elsewhere")
    assert scene.known().workers == {}
    assert len([record for record in caplog.records if "elsewhere" in record.message]) == 1


@pytest.mark.parametrize(("skew", "said"), [(0.5, 0), (-30, 1), (30, 1)])
async def test_a_clock_that_is_off_is_said_once(scene, caplog, skew, said):
    await scene.card(CARD)
    await scene.begin()
    for _ in range(3):
        await scene.worker("w", time=time.time() + skew)
    assert len([record for record in caplog.records if "clock" in record.message]) == said
    assert set(scene.known().workers) == {"w"}


async def test_a_clock_that_runs_away_is_said_once_and_what_was_said_is_forgotten_with_the_worker(scene, caplog):
    await scene.card(CARD)
    await scene.begin()
    for lives in (1, 2):
        for skew in range(10, 20):
            await scene.worker("w", time=time.time() + skew)
            await scene.worker("x", replies="elsewhere")
        for about in ("clock", "elsewhere"):
            assert len([record for record in caplog.records if about in record.message]) == lives
        await asyncio.sleep(5)
        assert scene.presence._said == set()


async def test_the_other_gateways_partitions_are_known_while_they_live(scene):
    await scene.begin()
    await scene.gateway("one", partition=1)
    await scene.gateway("two", partition=1)
    await scene.gateway("three", partition=5)
    assert sorted(scene.presence.reply_partitions()) == [1, 1, 5], "its own is not among them"
    assert scene.catalog.gateways == 4
    await scene.gateway("three", leaving=True)
    assert scene.presence.reply_partitions() == [1, 1]
    assert scene.catalog.gateways == 3
    await until(lambda: scene.presence.reply_partitions() == [], 5)
    assert scene.catalog.gateways == 1


async def test_its_own_heartbeat_is_sent_every_interval_and_a_last_one_says_that_it_leaves(scene):
    records: list[Record] = []
    await scene.bus.log_reader(TOPICS.workers, [0], Start.BEGINNING, records.extend)
    await scene.begin()
    await asyncio.sleep(4.5)
    scene.leaving = True
    await scene.presence.close()
    await turns()
    beats = [decode_beat(record.value or b"") for record in records]
    found = [(beat.gateway, beat.leaving) for beat in beats if isinstance(beat, GatewayBeat)]
    assert found == [("me", False)] * 5 + [("me", True)]


async def test_what_is_no_heartbeat_or_card_is_said_and_passed_by(scene, caplog):
    await scene.begin()
    await scene.beats(b"{}")
    await scene.beats(b"\xff")
    await scene.bus.send(TOPICS.models, b"[]", key=b"k", headers=[])
    await scene.bus.send(TOPICS.models, None, key=b"\xff", headers=[])
    await scene.card(CARD)
    await turns()
    assert scene.known().card == CARD
    assert [record.levelno for record in caplog.records if "undecodable" in record.message] == [logging.WARNING] * 3


async def test_a_heartbeat_with_positions_that_are_none_is_passed_by_and_ends_nothing(scene, caplog):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("lives", capacity=2)
    await scene.worker("wrong", capacity=5, positions={"x": 1})
    await asyncio.sleep(2)
    assert "undecodable heartbeat" in caplog.text
    assert list(scene.known().workers) == ["lives"]
    await asyncio.sleep(3)
    assert scene.known().workers == {}, "who falls silent is still buried"


async def test_a_fault_of_ours_is_logged_and_the_heartbeats_go_on(scene, caplog, monkeypatch):
    async def faulty(_topic: str) -> dict[int, int]:
        raise ValueError("nobody has thought of this")

    await scene.card(CARD)
    await scene.presence.start()
    await scene.worker("w")
    ends = scene.bus.ends
    monkeypatch.setattr(scene.bus, "ends", faulty)
    scene.presence.begin_beats()
    await asyncio.sleep(4.5)
    assert (await ends(TOPICS.workers))[0] == 1 + 5
    assert scene.known().workers == {}, "who falls silent is still buried"
    assert "nobody has thought of this" in caplog.text


async def test_a_heartbeat_clears_what_was_sent_to_its_worker(scene):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("a", partitions=(0,), capacity=2)
    await scene.worker("b", partitions=(1,), capacity=1)
    assert [scene.placement.choose(scene.known()) for _ in range(3)] == [0, 0, 1]
    await scene.worker("a", partitions=(0,), capacity=2)
    assert scene.placement.choose(scene.known()) == 0


async def fill(scene: Scene, count: int, partition: int = 0) -> None:
    for _ in range(count):
        await send_request(scene.bus, request(), partition)


async def test_the_queue_is_what_lay_in_the_log_a_measurement_ago_and_nobody_has_begun(scene):
    await scene.card(CARD)
    await scene.begin()
    await fill(scene, 7)
    await fill(scene, 3, partition=1)
    await asyncio.sleep(1)
    assert scene.known().queue_depth == 0, "it may have been in transit"
    await scene.worker("w", positions={"0": 2})
    await asyncio.sleep(1)
    assert scene.known().queue_depth == 5 + 3, "of a partition that nobody has, what is committed counts"
    assert scene.known().backlog == {0, 1}
    await scene.worker("w", positions={"0": 7, "1": 1})
    await asyncio.sleep(1)
    assert (scene.known().queue_depth, scene.known().backlog) == (2, {1})
    await scene.worker("w", positions={"0": 7, "1": 3})
    await asyncio.sleep(1)
    assert (scene.known().queue_depth, scene.known().backlog) == (0, set())


async def test_without_workers_the_queue_is_what_the_group_has_not_committed(scene):
    await scene.card(CARD)
    await fill(scene, 6)
    reader = await scene.bus.group_reader(REQUESTS, GROUP, _Member(), buffer=10)
    await turns()
    reader.commit(0, 4)
    await reader.close()
    await scene.begin()
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 2


class _Member:
    def on_assigned(self, assigned: Any) -> None: ...

    def on_revoked(self, partitions: Any) -> None: ...

    def on_records(self, records: Any) -> None: ...


async def test_the_rate_is_measured_while_some_wait_and_never_the_arrivals(scene):
    await scene.card(CARD)
    await scene.begin()
    for second in range(1, 6):  # nothing waits: what is begun is what arrives
        await fill(scene, 1)
        await scene.worker("w", positions={"0": second, "1": 0})
        await asyncio.sleep(1)
    assert (scene.known().rate, scene.known().estimated_wait(10)) == (0, None)
    await fill(scene, 100)
    for second in range(1, 11):
        await scene.worker("w", positions={"0": 5 + 4 * second, "1": 0})
        await asyncio.sleep(1)
    assert scene.known().rate == pytest.approx(4, rel=0.1)
    assert scene.known().estimated_wait(20) == pytest.approx(5, rel=0.1)


async def test_the_rate_stays_as_it_was_while_no_worker_is_there(scene):
    await scene.card(CARD)
    await fill(scene, 100)
    await scene.begin()
    for second in range(1, 11):
        await scene.worker("w", positions={"0": 4 * second, "1": 0})
        await asyncio.sleep(1)
    await scene.worker("w", leaving=True)
    await asyncio.sleep(30)
    assert scene.known().rate == pytest.approx(4, rel=0.1)


async def test_a_place_in_the_queue_counts_those_before_it_in_every_partition(scene):
    await scene.card(CARD)
    await fill(scene, 10)
    await fill(scene, 10, partition=1)
    await scene.begin()
    await scene.worker("w", positions={"0": 2, "1": 2})
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 16
    assert [scene.known().position(0, offset) for offset in (0, 2, 5, 9, 200)] == [0, 0, 6, 14, 206]


def test_of_partitions_with_as_many_half_come_first_though_it_is_the_next_of_its_own():
    beat = WorkerBeat("w", MODEL, REQUESTS, GROUP, "", 0, 1, positions={str(partition): 5 for partition in range(5)})
    known = Known(CARD, {"w": beat}, ends=dict.fromkeys(range(5), 9))
    assert [known.position(3, offset) for offset in (5, 6, 9)] == [2, 7, 20]


async def test_a_model_whose_topic_is_not_there_holds_up_no_other(scene):
    await scene.card(ModelCard("another", "no-such-topic", "g"))
    await scene.card(CARD)
    await fill(scene, 2)
    await scene.begin()
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 2
