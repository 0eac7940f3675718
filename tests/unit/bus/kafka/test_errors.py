"""Every error that librdkafka can raise comes out as one of ours, whichever door it comes
through.
"""

from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from app.bus.base import TopicSpec
from app.bus.kafka import client as kafka_client
from app.bus.kafka.client import KafkaAdmin, reason
from app.config.settings import load_settings
from app.errors import BusError

CODES = sorted(
    {value for name, value in vars(KafkaError).items() if isinstance(value, int) and name.isupper()}
    - {0}
)
SETTINGS = load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1"}).bus


def raising(error: BaseException) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def failed(error: BaseException) -> "ThreadFuture[Any]":
    future: ThreadFuture[Any] = ThreadFuture()
    future.set_exception(error)
    return future


def done(result: Any) -> "ThreadFuture[Any]":
    future: ThreadFuture[Any] = ThreadFuture()
    future.set_result(result)
    return future


class FakeAdmin:
    """An admin client each of whose calls ends with `error`."""

    error: BaseException = KafkaException(KafkaError(KafkaError._FAIL))

    def __init__(self, _properties: Any) -> None: ...

    def list_topics(self, **_: Any) -> Any:
        raise self.error

    def _failed(self, keys: Any, **_: Any) -> Any:
        return {
            getattr(key, "topic", key) if isinstance(key, str) else key: failed(self.error)
            for key in keys
        }

    list_offsets = describe_configs = incremental_alter_configs = _failed

    def create_topics(self, new: Any, **_: Any) -> Any:
        return {topic.topic: failed(self.error) for topic in new}


class FakeConsumer:
    """A consumer that cannot say what its group has committed."""

    def __init__(self, _properties: Any) -> None: ...

    def committed(self, _places: Any, **_: Any) -> Any:
        raise FakeAdmin.error


class Clock:
    """Passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(kafka_client, "time", made)
    return made


@pytest.fixture
def admin(monkeypatch, clock) -> KafkaAdmin:
    monkeypatch.setattr(kafka_client, "AdminClient", FakeAdmin)
    monkeypatch.setattr(kafka_client, "Consumer", FakeConsumer)
    return KafkaAdmin(SETTINGS, print)


def none_there(admin: KafkaAdmin) -> None:
    """Makes a topic on a broker that has none before."""
    made = SimpleNamespace(partitions={0: None}, error=None)
    admin._metadata = lambda topic: SimpleNamespace(topics={topic: made} if topic else {})  # type: ignore[method-assign]
    admin.ensure([TopicSpec("t", 1)])


CALLS: dict[str, Callable[[KafkaAdmin], Any]] = {
    "cluster": KafkaAdmin.cluster,
    "partitions": lambda admin: admin.partitions("t"),
    "ensure": lambda admin: admin.ensure([TopicSpec("t", 1)]),
    "ends": lambda admin: admin.ends("t", 2),
    "committed": lambda admin: admin.committed("t", "g", 2),
    "speaks_consumer_protocol": KafkaAdmin.speaks_consumer_protocol,
    "make a topic": none_there,
}


@pytest.mark.parametrize("call", CALLS)
def test_every_error_of_an_admin_call_is_one_of_ours(admin, monkeypatch, call):
    for code in CODES:
        if (call, code) == ("make a topic", KafkaError.TOPIC_ALREADY_EXISTS):
            continue  # another process was first: no error
        monkeypatch.setattr(FakeAdmin, "error", KafkaException(KafkaError(code)))
        with pytest.raises(BusError) as raised:
            CALLS[call](admin)
        assert KafkaError(code).str() in str(raised.value)


@pytest.mark.parametrize("call", CALLS)
def test_a_broker_that_does_not_answer_in_time_is_one_of_our_errors(admin, monkeypatch, call):
    monkeypatch.setattr(FakeAdmin, "error", TimeoutError())
    with pytest.raises(BusError):
        CALLS[call](admin)


def test_a_topic_that_another_process_has_made_meanwhile_is_no_error(admin, monkeypatch):
    monkeypatch.setattr(
        FakeAdmin, "error", KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS))
    )
    monkeypatch.setattr(
        FakeAdmin,
        "list_offsets",
        lambda _, places, **__: dict.fromkeys(places, done(SimpleNamespace(offset=0))),
    )
    none_there(admin)


@pytest.mark.parametrize(
    "code",
    [
        "NOT_LEADER_FOR_PARTITION",
        "UNKNOWN_LEADER_EPOCH",
        "FENCED_LEADER_EPOCH",
        "OFFSET_NOT_AVAILABLE",
    ],
)
def test_a_topic_that_was_made_is_there_once_each_partition_has_its_leader(
    admin, monkeypatch, clock, code
):
    answers = [
        failed(KafkaException(KafkaError(getattr(KafkaError, code)))),
        done(SimpleNamespace(offset=0)),
    ]
    monkeypatch.setattr(
        FakeAdmin, "create_topics", lambda _, new, **__: {topic.topic: done(None) for topic in new}
    )
    monkeypatch.setattr(
        FakeAdmin,
        "list_offsets",
        lambda _, places, **__: {place: answers.pop(0) for place in places},
    )
    none_there(admin)
    assert (answers, clock.now > 0) == ([], True)


def test_a_topic_that_was_made_and_that_no_broker_knows_is_named(admin, monkeypatch, clock):
    monkeypatch.setattr(
        FakeAdmin, "error", KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS))
    )
    admin._metadata = lambda _topic: SimpleNamespace(topics={})
    with pytest.raises(BusError, match="topic t "):
        admin.ensure([TopicSpec("t", 1)])


def test_a_group_whose_session_cannot_be_set_keeps_the_brokers(admin, monkeypatch):
    for code in CODES:
        monkeypatch.setattr(FakeAdmin, "error", KafkaException(KafkaError(code)))
        admin.shorten_session("g")


def test_what_the_broker_cannot_say_yet_is_asked_again_for_a_while(admin, monkeypatch, clock):
    monkeypatch.setattr(
        FakeAdmin, "error", KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
    )
    with pytest.raises(BusError):
        admin.ends("t", 1)
    assert 5 < clock.now < 20
    monkeypatch.setattr(FakeAdmin, "error", KafkaException(KafkaError(KafkaError._AUTHENTICATION)))
    before = clock.now
    with pytest.raises(BusError):
        admin.ends("t", 1)
    assert clock.now == before, "what will not pass is told at once"


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(KafkaError._TRANSPORT),
        KafkaException(KafkaError(KafkaError._TRANSPORT)),
        BusError("x"),
        KafkaException("x"),
        ValueError(),
    ],
)
def test_an_error_is_told_in_a_few_words(error):
    assert 0 < len(reason(error)) < 80
    assert "KafkaError{" not in reason(error)
