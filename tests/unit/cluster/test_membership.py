"""What a gateway knows of the others: who lives, who has fallen silent."""

import asyncio
import logging
import time

import pytest

from app.bus.base import Record, Start
from app.protocol.heartbeats import GatewayHeartbeat, ModelRegistration, decode_heartbeat
from tests.unit.cluster.membership_scene import CARD
from tests.unit.scene import MODEL, TOPICS, turns, until
from tests.unit.virtual_time import stand_still


async def test_every_model_and_worker_that_was_there_is_known_at_the_start(scene):
    await scene.card(ModelRegistration("old", "t", "g"))
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


async def test_while_the_gateway_itself_stands_still_nobody_falls_silent(scene):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("w")
    stand_still(20)
    await asyncio.sleep(1.5)
    assert set(scene.known().workers) == {"w"}
    await until(lambda: not scene.known().workers, 3)


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


async def test_a_clock_that_runs_away_is_said_once_and_what_was_said_is_forgotten_with_the_worker(
    scene, caplog
):
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
    beats = [decode_heartbeat(record.value or b"") for record in records]
    found = [(beat.gateway, beat.leaving) for beat in beats if isinstance(beat, GatewayHeartbeat)]
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
    assert [record.levelno for record in caplog.records if "undecodable" in record.message] == [
        logging.WARNING
    ] * 3


async def test_a_heartbeat_with_positions_that_are_none_is_passed_by_and_ends_nothing(
    scene, caplog
):
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
    scene.queues.start()
    await asyncio.sleep(4.5)
    assert (await ends(TOPICS.workers))[0] == 1 + 5
    assert scene.known().workers == {}, "who falls silent is still buried"
    assert "nobody has thought of this" in caplog.text


async def test_while_nobody_says_how_long_the_queues_are_the_heartbeats_go_on(scene, monkeypatch):
    async def silent(_topic: str) -> dict[int, int]:
        return await asyncio.Future()

    await scene.card(CARD)
    await scene.presence.start()
    await scene.worker("w")
    ends = scene.bus.ends
    monkeypatch.setattr(scene.bus, "ends", silent)
    scene.presence.begin_beats()
    scene.queues.start()
    await asyncio.sleep(4.5)
    assert (await ends(TOPICS.workers))[0] == 1 + 5
    assert scene.known().workers == {}, "who falls silent is still buried"


async def test_a_heartbeat_clears_what_was_sent_to_its_worker(scene):
    await scene.card(CARD)
    await scene.begin()
    await scene.worker("a", partitions=(0,), capacity=2)
    await scene.worker("b", partitions=(1,), capacity=1)
    assert [scene.placement.choose(scene.known()) for _ in range(3)] == [0, 0, 1]
    await scene.worker("a", partitions=(0,), capacity=2)
    assert scene.placement.choose(scene.known()) == 0
