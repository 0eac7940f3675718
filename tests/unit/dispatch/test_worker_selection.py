"""Which partition a request goes to: one of the worker's with the most room, as far as anybody
knows.
"""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.model_registry import ModelState
from app.dispatch.worker_selection import WorkerSelector
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat
from app.protocol.lanes import split_into_lanes


def beat(worker: str, partitions: tuple[int, ...], **members: Any) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker, "m", "t", "g", "r", 0, 1, partitions=partitions, **{"capacity": 4, **members}
    )


def known(*beats: WorkerHeartbeat) -> ModelState:
    return ModelState(ModelRegistration("m", "t", "g"), {one.worker: one for one in beats})


def test_without_a_worker_that_serves_any_partition_will_do():
    placement = WorkerSelector()
    assert placement.choose(known()) is None
    assert placement.choose(known(beat("a", ()), beat("b", (0, 1), ready=False))) is None


def test_the_worker_with_the_most_room_is_chosen():
    workers = known(
        beat("a", (0,), in_flight=3),
        beat("b", (1,), in_flight=1, waiting=1),
        beat("c", (2,), in_flight=4),
    )
    assert WorkerSelector().choose(workers) == 1


def test_what_was_sent_since_the_last_heartbeat_counts():
    placement, workers = WorkerSelector(), known(beat("a", (0,)), beat("b", (1,), in_flight=1))
    assert [placement.choose(workers) for _ in range(7)] == [0, 0, 1, 0, 1, 0, 1]
    placement.heard("a")
    assert placement.choose(workers) == 0


ALL = tuple(range(8))
QUIET, CROWD = split_into_lanes(ALL)


@pytest.mark.parametrize(("crowd", "half"), [(False, QUIET), (True, CROWD)])
def test_the_partitions_of_a_workers_half_take_turns(crowd, half):
    placement, workers = WorkerSelector(), known(beat("a", ALL))
    assert Counter(placement.choose(workers, crowd=crowd) for _ in range(12)) == dict.fromkeys(
        half, 3
    )


def test_before_there_is_a_worker_the_halves_of_the_topic_are_kept_too():
    placement, topic = WorkerSelector(), known()
    topic.ends = dict.fromkeys(reversed(ALL), 0)
    assert {placement.choose(topic, crowd=True) for _ in range(8)} == set(CROWD)
    assert {placement.choose(topic) for _ in range(8)} == set(QUIET)


def test_who_is_no_crowd_is_sent_where_nothing_waits_though_there_is_less_room():
    workers = known(beat("roomy", ALL[:4], capacity=99), beat("full", ALL[4:]))
    workers.backlog = frozenset({*CROWD, *split_into_lanes(ALL[:4]).interactive})
    placement, free = WorkerSelector(), split_into_lanes(ALL[4:]).interactive
    assert {placement.choose(workers) for _ in range(8)} == set(free)
    assert placement.choose(workers, crowd=True) in ALL[:4]


def test_where_something_waits_everywhere_room_decides():
    workers = known(beat("a", ALL[:4]), beat("b", ALL[4:], capacity=99))
    workers.backlog = frozenset(ALL)
    assert WorkerSelector().choose(workers) in split_into_lanes(ALL[4:]).interactive


@given(
    owned=st.lists(st.sets(st.integers(0, 31), min_size=2), min_size=1, max_size=4),
    backlog=st.frozensets(st.integers(0, 31)),
    crowd=st.booleans(),
)
def test_a_crowd_is_never_in_the_quiet_half_of_the_worker_it_is_sent_to(owned, backlog, crowd):
    beats = [
        beat(str(number), tuple(sorted(partitions))) for number, partitions in enumerate(owned)
    ]
    workers, placement = known(*beats), WorkerSelector()
    workers.backlog = backlog
    allowed = {partition for one in beats for partition in split_into_lanes(one.partitions)[crowd]}
    assert {placement.choose(workers, crowd=crowd) for _ in range(20)} <= allowed


@given(
    capacities=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    count=st.integers(0, 60),
)
def test_a_burst_is_shared_by_room(capacities, count):
    placement = WorkerSelector()
    workers = known(
        *(
            beat(str(number), (number,), capacity=capacity)
            for number, capacity in enumerate(capacities)
        )
    )
    got = Counter(placement.choose(workers) for _ in range(count))
    room = [capacity - got[number] for number, capacity in enumerate(capacities)]
    served = [number for number in range(len(capacities)) if got[number]]
    assert all(room[number] + 1 >= max(room) for number in served), (
        "nobody got one while another had more room"
    )
