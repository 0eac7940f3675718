"""Which partition a request goes to: one of the worker's with the most room, as far as anybody knows."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.catalog import Known
from app.contracts.presence import ModelCard, WorkerBeat
from app.gateway.placement import Placement


def beat(worker: str, partitions: tuple[int, ...], **members: Any) -> WorkerBeat:
    return WorkerBeat(worker, "m", "t", "g", "r", 0, 1, partitions=partitions, **{"capacity": 4, **members})


def known(*beats: WorkerBeat) -> Known:
    return Known(ModelCard("m", "t", "g"), {one.worker: one for one in beats})


def test_without_a_worker_that_serves_any_partition_will_do():
    placement = Placement()
    assert placement.choose(known()) is None
    assert placement.choose(known(beat("a", ()), beat("b", (0, 1), ready=False))) is None


def test_the_worker_with_the_most_room_is_chosen():
    workers = known(beat("a", (0,), in_flight=3), beat("b", (1,), in_flight=1, waiting=1), beat("c", (2,), in_flight=4))
    assert Placement().choose(workers) == 1


def test_what_was_sent_since_the_last_heartbeat_counts():
    placement, workers = Placement(), known(beat("a", (0,)), beat("b", (1,), in_flight=1))
    assert [placement.choose(workers) for _ in range(7)] == [0, 0, 1, 0, 1, 0, 1]
    placement.heard("a")
    assert placement.choose(workers) == 0


def test_a_workers_partitions_take_turns():
    placement, workers = Placement(), known(beat("a", (3, 5, 8)))
    assert Counter(placement.choose(workers) for _ in range(9)) == {3: 3, 5: 3, 8: 3}


@given(
    capacities=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    count=st.integers(0, 60),
)
def test_a_burst_is_shared_by_room(capacities, count):
    placement = Placement()
    workers = known(*(beat(str(number), (number,), capacity=capacity) for number, capacity in enumerate(capacities)))
    got = Counter(placement.choose(workers) for _ in range(count))
    room = [capacity - got[number] for number, capacity in enumerate(capacities)]
    served = [number for number in range(len(capacities)) if got[number]]
    assert all(room[number] + 1 >= max(room) for number in served), "nobody got one while another had more room"
