"""Processes die under load by a seeded schedule, and every promise is kept; and the reckoning sees
what it is there to see.
"""

import pytest

from tests.acceptance.reading import DONE, Told
from tests.chaos.__main__ import run
from tests.chaos.audit import Found, Totals, judge
from tests.chaos.ledger import CUT, IDEMPOTENT, PLAIN, Promise, error_of, gaps
from tests.chaos.schedule import schedule
from tests.numbered import CREATED

TARGETS = {"worker": ["w1", "w2", "w3"], "gateway": ["g1", "g2"], "kafka": ["kafka"]}
SEED, SECONDS = 4, 60  # gateways, workers and Kafka are killed, gateways and workers stopped


@pytest.mark.servers
@pytest.mark.brokers
async def test_every_promise_is_kept_while_everything_dies_and_comes_back() -> None:
    totals, logs = await run(SEED, SECONDS)
    print(totals)
    assert totals.kept, f"seed {SEED}, logs in {logs}: {totals}: {totals.faults}"
    assert totals.outcomes["completed"] > 0


def test_the_same_seed_gives_the_same_faults_and_another_gives_others() -> None:
    assert schedule(7, 300, TARGETS) == schedule(7, 300, TARGETS) != schedule(8, 300, TARGETS)


@pytest.mark.parametrize("seed", range(20))
def test_each_kind_of_process_suffers_and_none_in_the_calm_at_both_ends(seed: int) -> None:
    faults = schedule(seed, 300, TARGETS)
    assert {fault.target for fault in faults} == {
        name for names in TARGETS.values() for name in names
    }
    assert {fault.action for fault in faults} == {"kill", "terminate", "stop"}
    assert all(4 <= fault.at < 296 for fault in faults)


@pytest.mark.parametrize("seed", range(20))
def test_no_three_workers_die_so_soon_one_after_the_other_that_a_request_may_die_with_all(
    seed: int,
) -> None:
    deaths = [
        fault.at
        for fault in schedule(seed, 300, TARGETS)
        if fault.target[0] == "w" and fault.action != "terminate"
    ]
    assert all(third - first >= 30 for first, third in zip(deaths, deaths[2:], strict=False))


@pytest.mark.parametrize(
    ("numbers", "expected", "found"),
    [
        ([0, 1, 2], 3, (0, 0)),
        ([0, 1, 1, 2], 3, (1, 0)),
        ([0, 2], 3, (0, 1)),
        ([0, 1], 3, (0, 1)),
        ([0, 1], None, (0, 0)),
        ([1, 2], None, (0, 1)),
        ([0, 2, 1], 3, (1, 1)),
        ([0, 1, 2, 0, 1, 2], 3, (3, 0)),
        ([], 2, (0, 2)),
    ],
)
def test_doubled_and_missing_tokens_are_counted(
    numbers: list[int], expected: int | None, found: tuple[int, int]
) -> None:
    assert gaps(numbers, expected) == found


def chunk(**choice: object) -> dict[str, object]:
    frame = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": "alpha",
    }
    return {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}


def stream(*numbers: int) -> Told:
    """A stream of these tokens as a client is told it."""
    head, end = chunk(delta={"role": "assistant", "content": ""}), chunk(finish_reason="length")
    usage = {
        **chunk(),
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": len(numbers)},
    }
    events = [
        head,
        *(chunk(delta={"content": f" tok{number}"}) for number in numbers),
        end,
        usage,
        DONE,
    ]
    return Told(200, {"x-request-id": "req_1"}, events=events)


def judged(
    reply: Told | None,
    *told: Told,
    kind: str = PLAIN,
    status: str = "completed",
    left: bool = False,
) -> Totals:
    """The totals over one request for three tokens, of which the log has `reply` and the client was
    `told`.
    """
    promise = Promise(kind, stream=True, count=3, left=left)
    for one in told:
        promise.take(one)
    totals = Totals()
    judge([promise], {"req_1": reply and Found(status, "", 3, reply)}, totals)
    return totals


def test_a_promise_that_was_kept_is_found_to_be_kept() -> None:
    assert judged(stream(0, 1, 2), stream(0, 1, 2)).kept


def test_a_stream_that_was_cut_is_kept_where_the_log_goes_on_from_it() -> None:
    cut = Told(200, {"x-request-id": "req_1"}, events=stream(0, 1, 2).events[:2], cut=True)
    totals = judged(stream(0, 1, 2), cut)
    assert totals.kept
    assert totals.errors == {CUT: 1}


def test_a_stream_that_was_resumed_is_kept_and_one_that_was_begun_anew_is_not() -> None:
    whole = stream(0, 1, 2)
    first = Told(200, {"x-request-id": "req_1"}, events=whole.events[:2], ids=[1, 2], cut=True)
    rest = Told(200, {"x-request-id": "req_1"}, events=whole.events[2:])
    assert judged(whole, first, rest, kind=IDEMPOTENT).kept
    again = judged(whole, first, whole, kind=IDEMPOTENT)
    assert (again.kept, again.doubled) == (False, 1)


@pytest.mark.parametrize(
    ("reply", "told", "lost", "doubled", "missing"),
    [
        (None, stream(0, 1, 2), 1, 0, 0),
        (stream(0, 2), stream(0, 2), 0, 0, 2),
        (stream(0, 1, 1, 2), stream(0, 1, 1, 2), 0, 2, 0),
        (stream(0, 1, 2), stream(0, 1, 1, 2), 0, 1, 0),
    ],
)
def test_a_broken_promise_is_counted(
    reply: Told | None, told: Told, lost: int, doubled: int, missing: int
) -> None:
    totals = judged(reply, told)
    assert not totals.kept
    assert (totals.lost, totals.doubled, totals.missing) == (lost, doubled, missing)


def test_what_nobody_had_cancelled_may_not_end_so() -> None:
    cancelled = Told(409, {"x-request-id": "req_1"}, b'{"error":{"code":"request_cancelled"}}')
    assert judged(cancelled, cancelled, status="cancelled").lost == 1
    assert judged(cancelled, Told(), status="cancelled", left=True).kept


def test_an_end_without_done_or_error_is_an_error() -> None:
    assert error_of(Told(200, {}, events=stream(0).events[:-1])) == "ended_without_done"
