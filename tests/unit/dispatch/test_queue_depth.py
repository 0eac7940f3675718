"""How long the queues are, and how fast they move."""

import asyncio
from typing import Any

import pytest

from app.cluster.model_registry import ModelState
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat
from app.protocol.request_id import Address, fingerprint_topic
from tests.unit.cluster.membership_scene import CARD, GROUP, Scene
from tests.unit.scene import MODEL, REQUESTS, request, send_request, turns


async def begin(scene: Scene) -> None:
    """So that whole seconds later it is between two measurements."""
    await scene.begin()
    await asyncio.sleep(0.5)


async def fill(scene: Scene, count: int, partition: int = 0) -> None:
    for _ in range(count):
        await send_request(scene.bus, request(), partition)


async def test_the_queue_is_what_lay_in_the_log_a_measurement_ago_and_nobody_has_begun(scene):
    await scene.card(CARD)
    await begin(scene)
    await fill(scene, 7)
    await fill(scene, 3, partition=1)
    await asyncio.sleep(1)
    assert scene.known().queue_depth == 0, "it may have been in transit"
    await scene.worker("w", positions={"0": 2})
    await asyncio.sleep(1)
    assert scene.known().queue_depth == 5 + 3, (
        "of a partition that nobody has, what is committed counts"
    )
    assert scene.known().backlog == {0, 1}
    await scene.worker("w", positions={"0": 7, "1": 1})
    await asyncio.sleep(1)
    assert (scene.known().queue_depth, scene.known().backlog) == (2, {1})
    await scene.worker("w", positions={"0": 7, "1": 3})
    await asyncio.sleep(1)
    assert (scene.known().queue_depth, scene.known().backlog) == (0, set())


async def test_what_was_ended_while_it_waited_is_in_the_log_and_not_in_the_queue(scene):
    await scene.card(CARD)
    await begin(scene)
    await fill(scene, 7)
    for offset in (2, 4, 5):
        scene.withdrawn.add(MODEL, address(offset))
    await scene.gateway("other", withdrawn={MODEL: 2, "another": 9})
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 7 - 3 - 2
    await scene.gateway("other", withdrawn={})
    await scene.worker("w", positions={"0": 5, "1": 0})
    await asyncio.sleep(1)
    assert scene.known().queue_depth == 2 - 1, (
        "a worker has passed the other two of ours, and both of theirs"
    )


def address(offset: int) -> Address:
    return Address("0" * 32, fingerprint_topic(REQUESTS), 0, offset, 0, 0)


async def test_without_workers_the_queue_is_what_the_group_has_not_committed(scene):
    await scene.card(CARD)
    await fill(scene, 6)
    reader = await scene.bus.group_reader(REQUESTS, GROUP, _Member(), buffer=10)
    await turns()
    reader.commit(0, 4)
    await reader.close()
    await begin(scene)
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 2


class _Member:
    def on_assigned(self, assigned: Any) -> None: ...

    def on_revoked(self, partitions: Any) -> None: ...

    def on_records(self, records: Any) -> None: ...


async def test_the_rate_is_measured_while_some_wait_and_never_the_arrivals(scene):
    await scene.card(CARD)
    await begin(scene)
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
    await begin(scene)
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
    await begin(scene)
    await scene.worker("w", positions={"0": 2, "1": 2})
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 16
    assert [scene.known().position(0, offset) for offset in (0, 2, 5, 9, 200)] == [0, 0, 6, 14, 206]


def test_of_partitions_with_as_many_half_come_first_though_it_is_the_next_of_its_own():
    beat = WorkerHeartbeat(
        "w",
        MODEL,
        REQUESTS,
        GROUP,
        "",
        0,
        1,
        positions={str(partition): 5 for partition in range(5)},
    )
    known = ModelState(CARD, {"w": beat}, ends=dict.fromkeys(range(5), 9))
    assert [known.position(3, offset) for offset in (5, 6, 9)] == [2, 7, 20]


async def test_a_model_whose_topic_is_not_there_holds_up_no_other(scene):
    await scene.card(ModelRegistration("another", "no-such-topic", "g"))
    await scene.card(CARD)
    await fill(scene, 2)
    await begin(scene)
    await asyncio.sleep(2)
    assert scene.known().queue_depth == 2
