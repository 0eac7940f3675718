"""Who is let in: a gateway that serves, a model that is known, a queue that is not too long."""

from typing import Any

import pytest

from app.cluster.model_registry import ModelRegistry, ModelState
from app.errors import (
    BusUnavailable,
    Draining,
    GatewayError,
    ModelNotFound,
    QueueFull,
    TenantQueueFull,
    UpstreamLoop,
)
from app.inference.admission import Admission
from app.inference.reply_consumer import ReplyConsumer
from app.inference.submission import Submission
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat
from tests.unit.agent.counted import counted
from tests.unit.gateway.calls import Fed
from tests.unit.scene import MODEL, TOPICS, settings, started_bus


def submission(**members: Any) -> Submission:
    return Submission(
        **{
            "path": "/x",
            "body": b"",
            "model": MODEL,
            "stream": False,
            "tenant": "t",
            "timeout_seconds": 60,
            **members,
        }
    )


@pytest.fixture
async def inbox() -> ReplyConsumer:
    return ReplyConsumer(await started_bus(), TOPICS.replies)


@pytest.fixture
def catalog() -> ModelRegistry:
    found = ModelRegistry()
    found.learn(ModelRegistration(MODEL, "t", "g", aliases=("nick",)))
    return found


@pytest.fixture
def admission(catalog: ModelRegistry, inbox: ReplyConsumer) -> Admission:
    made = Admission(
        catalog,
        inbox,
        settings(MAX_QUEUE_DEPTH="10", TENANT_SOFT_QUEUE="3", TENANT_HARD_QUEUE="8").gateway,
    )
    made.unready_reason, made.deployment = "", "here"
    return made


@pytest.fixture
def known(catalog: ModelRegistry) -> ModelState:
    found = catalog.find(MODEL)
    assert found is not None
    return found


def refused(admission: Admission, kind: type[GatewayError], **members: Any) -> GatewayError:
    with pytest.raises(kind) as caught:
        admission.admit(submission(**members))
    return caught.value


def test_a_model_is_found_by_its_id_and_its_alias(admission, known):
    assert (
        admission.admit(submission()) == admission.admit(submission(model="nick")) == (known, False)
    )


def test_a_model_that_nobody_knows_is_404_and_named_but_not_at_any_length(admission):
    error = refused(admission, ModelNotFound, model="gpt-9")
    assert "'gpt-9'" in error.message
    assert len(refused(admission, ModelNotFound, model="x" * 10**6).message) < 1000


def test_a_gateway_that_is_not_ready_or_drains_says_so_and_when_to_come_back(admission):
    admission.unready_reason = "no broker"
    error = refused(admission, BusUnavailable)
    assert ("no broker" in error.message, error.retry_after_seconds) == (True, 1)
    admission.is_draining = True
    error = refused(admission, Draining)
    assert set(error.build_headers()) >= {("connection", "close"), ("retry-after", "1")}


@pytest.mark.parametrize("hops", ["here", "there,here", "here,there"])
def test_what_has_been_here_before_is_a_loop(admission, hops):
    refused(admission, UpstreamLoop, hops=hops)
    admission.admit(submission(hops="there,elsewhere,here2"))


def serve(known: ModelState, capacity: int) -> None:
    known.workers["w"] = WorkerHeartbeat("w", MODEL, "t", "g", "r", 0, 1, capacity=capacity)


def wait(inbox: ReplyConsumer, count: int, tenant: str = "t") -> list[Fed]:
    """So many requests of the tenant that nobody has begun to answer."""
    feds = [Fed(tenant=tenant) for _ in range(count)]
    for fed in feds:
        inbox.add_request(fed.call)
    return feds


def crowds(admission: Admission, **members: Any) -> bool:
    _, crowd = admission.admit(submission(**members))
    return crowd


def test_a_full_queue_is_refused_with_the_time_until_there_is_room(admission, known, inbox):
    wait(inbox, 4)
    known.queue_depth = 9
    admission.admit(submission())
    known.queue_depth = 12
    assert refused(admission, QueueFull).retry_after_seconds == 5, "the rate is not known"
    known.rate = 0.5
    assert refused(admission, QueueFull, timeout_seconds=3600).retry_after_seconds == 6, (
        "3 of 12 have to go first"
    )


def test_a_queue_longer_than_the_deadline_is_refused_until_it_is_shorter(admission, known, inbox):
    wait(inbox, 5)
    known.rate = 0.1
    admission.admit(submission(timeout_seconds=50))
    assert refused(admission, QueueFull, timeout_seconds=49).retry_after_seconds == 1
    error = refused(admission, QueueFull, timeout_seconds=20)
    assert error.retry_after_seconds == 30
    assert "50 s" in error.message
    serve(known, 5)
    admission.admit(submission(timeout_seconds=0.1))


def test_calls_that_nobody_has_answered_count_as_soon_as_they_are_sent(admission, known, inbox):
    serve(known, 4)
    feds = wait(inbox, 4, "t") + wait(inbox, 9, "u")
    admission.admit(submission(tenant="u"))
    feds += wait(inbox, 1, "u")
    refused(admission, QueueFull, tenant="u")
    inbox.remove_request(feds[0].call)
    admission.admit(submission(tenant="u"))


def test_while_nothing_waits_nobody_is_a_crowd_but_who_is_to_give_way_always(
    admission, known, inbox
):
    serve(known, 4)
    wait(inbox, 4)
    assert [crowds(admission, priority=priority) for priority in ("low", "normal", "high")] == [
        True,
        False,
        False,
    ]


def test_whoever_has_most_of_what_waits_is_a_crowd_from_the_first(admission, known, inbox):
    serve(known, 4)
    wait(inbox, 5)
    assert crowds(admission)
    assert not crowds(admission, tenant="other")


def test_one_of_two_that_have_little_waiting_is_none_and_one_of_two_that_have_much_is(
    admission, known, inbox
):
    wait(inbox, 3, "one")
    wait(inbox, 3, "two")
    assert not crowds(admission, tenant="one")
    wait(inbox, 1, "one")
    wait(inbox, 2, "two")
    assert [crowds(admission, tenant=tenant) for tenant in ("one", "two", "three")] == [
        True,
        True,
        False,
    ]


def test_what_other_gateways_have_waiting_makes_nobody_a_crowd_here(admission, known, inbox):
    known.queue_depth = 9
    wait(inbox, 3)
    assert not crowds(admission)


def test_of_the_slots_that_its_requests_may_run_in_a_gateway_counts_its_share(
    admission, catalog, known, inbox
):
    serve(known, 8)
    known.queue_depth = 9
    wait(inbox, 8)
    assert not crowds(admission)
    catalog.gateways = 2
    assert crowds(admission), "4 of them run at most"


def test_a_full_queue_of_others_keeps_nobody_out_and_nor_does_its_length(admission, known, inbox):
    wait(inbox, 7, "flood")
    wait(inbox, 7, "deluge")
    known.rate = 0.1
    assert not crowds(admission, timeout_seconds=1)
    wait(inbox, 4)
    refused(admission, QueueFull)


def test_many_with_little_each_are_refused_at_twice_a_full_queue(admission, known, inbox):
    known.queue_depth = 19
    assert not crowds(admission, tenant="other")
    known.queue_depth, known.rate = 20, 0.5
    assert (
        refused(admission, QueueFull, tenant="other", timeout_seconds=3600).retry_after_seconds == 2
    ), "one of 20 has to go first"


def test_what_is_to_give_way_is_refused_with_the_crowd(admission, known, inbox):
    known.queue_depth, known.rate = 9, 0.1
    refused(admission, QueueFull, priority="low")
    assert crowds(admission, priority="low", timeout_seconds=100)
    known.queue_depth = 10
    refused(admission, QueueFull, priority="low", timeout_seconds=1000)


def test_who_goes_first_is_never_a_crowd_and_yet_no_exception_from_the_limits(
    admission, known, inbox
):
    wait(inbox, 7)
    assert not crowds(admission, priority="high")
    wait(inbox, 1)
    refused(admission, TenantQueueFull, priority="high")


def test_more_than_a_tenants_share_is_refused_with_the_time_until_there_is_room(
    admission, known, inbox
):
    wait(inbox, 7)
    admission.admit(submission())
    wait(inbox, 2)
    error = refused(admission, TenantQueueFull, timeout_seconds=3600)
    assert (error.retry_after_seconds, "9 of your requests" in error.message) == (5, True)
    known.rate = 0.5
    assert refused(admission, TenantQueueFull).retry_after_seconds == 4, "2 of 9 have to go first"
    admission.admit(submission(tenant="other"))


def test_a_tenants_share_may_be_the_whole_queue(catalog, inbox, known):
    admission = Admission(catalog, inbox, settings(MAX_QUEUE_DEPTH="10").gateway)
    admission.unready_reason, admission.deployment = "", "here"
    wait(inbox, 10)
    catalog.gateways = 2
    refused(admission, QueueFull)


def test_crowded_requests_are_counted(admission, inbox):
    before = counted("crowded")
    crowds(admission)
    wait(inbox, 5)
    crowds(admission)
    assert counted("crowded") == before + 1
