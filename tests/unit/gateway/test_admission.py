"""Who is let in: a gateway that serves, a model that is known, a queue that is not too long."""

from typing import Any

import pytest

from app.catalog import Catalog, Known
from app.contracts.presence import ModelCard, WorkerBeat
from app.errors import BusUnavailable, Draining, GatewayError, ModelNotFound, QueueFull, UpstreamLoop
from app.gateway.admission import Admission
from app.gateway.inbox import Inbox
from app.gateway.submission import Submission
from tests.unit.gateway.calls import Fed
from tests.unit.scene import MODEL, TOPICS, started_bus


def submission(**members: Any) -> Submission:
    return Submission(**{"path": "/x", "body": b"", "model": MODEL, "stream": False, "tenant": "t", "timeout": 60, **members})


@pytest.fixture
async def inbox() -> Inbox:
    return Inbox(await started_bus(), TOPICS.replies)


@pytest.fixture
def catalog() -> Catalog:
    found = Catalog()
    found.learn(ModelCard(MODEL, "t", "g", aliases=("nick",)))
    return found


@pytest.fixture
def admission(catalog: Catalog, inbox: Inbox) -> Admission:
    made = Admission(catalog, inbox, 10)
    made.unready, made.deployment = "", "here"
    return made


@pytest.fixture
def known(catalog: Catalog) -> Known:
    found = catalog.find(MODEL)
    assert found is not None
    return found


def refused(admission: Admission, kind: type[GatewayError], **members: Any) -> GatewayError:
    with pytest.raises(kind) as caught:
        admission.admit(submission(**members))
    return caught.value


def test_a_model_is_found_by_its_id_and_its_alias(admission, known):
    assert admission.admit(submission()) is admission.admit(submission(model="nick")) is known


def test_a_model_that_nobody_knows_is_404_and_named_but_not_at_any_length(admission):
    error = refused(admission, ModelNotFound, model="gpt-9")
    assert "'gpt-9'" in error.message
    assert len(refused(admission, ModelNotFound, model="x" * 10**6).message) < 1000


def test_a_gateway_that_is_not_ready_or_drains_says_so_and_when_to_come_back(admission):
    admission.unready = "no broker"
    error = refused(admission, BusUnavailable)
    assert ("no broker" in error.message, error.retry_after) == (True, 1)
    admission.draining = True
    error = refused(admission, Draining)
    assert set(error.head()) >= {("connection", "close"), ("retry-after", "1")}


@pytest.mark.parametrize("hops", ["here", "there,here", "here,there"])
def test_what_has_been_here_before_is_a_loop(admission, hops):
    refused(admission, UpstreamLoop, hops=hops)
    admission.admit(submission(hops="there,elsewhere,here2"))


def test_a_full_queue_is_refused_with_the_time_until_there_is_room(admission, known):
    known.queue_depth = 9
    admission.admit(submission())
    known.queue_depth = 12
    assert refused(admission, QueueFull).retry_after == 5, "the rate is not known"
    known.rate = 0.5
    assert refused(admission, QueueFull, timeout=3600).retry_after == 6, "3 of 12 have to go first"


def test_a_queue_longer_than_the_deadline_is_refused_until_it_is_shorter(admission, known):
    known.queue_depth, known.rate = 5, 0.1
    admission.admit(submission(timeout=50))
    assert refused(admission, QueueFull, timeout=49).retry_after == 1
    error = refused(admission, QueueFull, timeout=20)
    assert error.retry_after == 30
    assert "50 s" in error.message
    known.queue_depth = 0
    admission.admit(submission(timeout=0.1))


def test_calls_that_nobody_has_answered_count_as_soon_as_they_are_sent(admission, known, inbox):
    known.workers["w"] = WorkerBeat("w", MODEL, "t", "g", "r", 0, 1, capacity=4)
    feds = [Fed() for _ in range(14)]
    for fed in feds[:13]:
        inbox.expect(fed.call)
    admission.admit(submission())
    inbox.expect(feds[13].call)
    refused(admission, QueueFull)
    inbox.drop(feds[0].call)
    admission.admit(submission())
