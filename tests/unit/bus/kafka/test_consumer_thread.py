"""A reader's thread outlives its consumers: one that cannot be made, and one that fails in a way
nobody has thought of.
"""

import asyncio
import logging
import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from app.bus.base import Start
from app.bus.kafka import client as kafka_client
from app.bus.kafka import consumer_thread as kafka_thread
from app.bus.kafka.client import KafkaAdmin
from app.bus.kafka.consumer_thread import ReaderThread
from app.bus.kafka.group import KafkaGroupReader
from app.bus.kafka.reader import KafkaLogReader
from app.config.settings import load_settings
from app.errors import BusError

FAULTS = [
    KafkaException(KafkaError(KafkaError._TRANSPORT)),
    BusError("away"),
    ValueError("of ours"),
]


class FakeConsumer:
    closed = False

    def close(self) -> None:
        self.closed = True


class Scripted(ReaderThread):
    """What is in `fails` is raised there, once each."""

    def __init__(self, **fails: list[Exception]) -> None:
        super().__init__("reader", "t", self._made)
        self.fails = fails
        self.consumers: list[FakeConsumer] = []
        self.turn_over = asyncio.Event()

    def _made(self) -> Any:
        self._fail("make")
        self.consumers.append(FakeConsumer())
        return self.consumers[-1]

    def begin(self, consumer: Any) -> None:
        self._fail("begin")

    def turn(self, consumer: Any) -> None:
        self._closing.wait(0.001)
        self._fail("turn")
        self.to_loop(self.turn_over.set)

    async def next_turn(self) -> None:
        """Waits in real time, as the thread has no other."""
        self.turn_over.clear()
        await self.turn_over.wait()

    def _fail(self, where: str) -> None:
        if self.fails.get(where):
            raise self.fails[where].pop(0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(kafka_thread, "_AGAIN_SECONDS", 0.001)


@pytest.mark.parametrize("where", ["make", "begin"])
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_whoever_waits_for_the_start_hears_why_it_cannot_be(where, fault):
    reader = Scripted(**{where: [fault]})
    with pytest.raises(BusError):
        await reader.start()
    await reader.close()
    assert all(consumer.closed for consumer in reader.consumers)


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_one_that_fails_while_it_reads_is_replaced_until_another_can_be_made(fault, caplog):
    caplog.set_level(logging.WARNING, "app.bus.kafka")
    reader = Scripted()
    await reader.start()
    reader.fails.update(make=list(FAULTS), begin=list(FAULTS))
    reader.fails["turn"] = [fault]
    while any(reader.fails.values()):
        await reader.next_turn()
    await reader.next_turn()
    await reader.close()
    assert len(reader.consumers) == 2 + len(FAULTS), "one more for each that could not begin"
    traces = [line.exc_info[1] for line in caplog.records if line.exc_info]
    assert {type(error) for error in traces} == {ValueError}, (
        "what nobody has thought of is logged with its trace"
    )


async def test_one_that_no_broker_hears_leave_is_waited_for_so_long_and_that_is_said(
    monkeypatch, caplog
):
    monkeypatch.setattr(kafka_thread, "_CLOSE_SECONDS", 0.01)
    heard = threading.Event()
    reader = Scripted()
    await reader.start()
    reader.consumers[0].close = heard.wait  # type: ignore[assignment, method-assign]
    await reader.close()
    lines = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert lines == ["reader: no broker hears its goodbye; it is waited for no longer"]
    heard.set()
    reader._thread.join()


async def test_one_that_nobody_waits_for_any_more_when_it_begins_ends_by_itself():
    reader = Scripted()
    starting = asyncio.create_task(reader.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await asyncio.to_thread(reader._thread.join)
    assert [consumer.closed for consumer in reader.consumers] == [True]


WRONG = "receive.message.max.bytes=2000"


async def test_properties_that_no_consumer_can_be_made_with_end_the_start():
    ours = load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_PROPERTIES": WRONG}).bus
    group = KafkaGroupReader(ours, "consumer", "t", "g", None, buffer=1)  # type: ignore[arg-type]
    log = KafkaLogReader(ours, "t", [0], Start.END, print)
    for reader in (group, log):
        with pytest.raises(BusError, match=r"receive\.message\.max\.bytes"):
            await reader.start()


async def test_a_session_timeout_that_the_new_protocol_does_not_have_ends_the_start():
    ours = load_settings(
        {"BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_PROPERTIES": "session.timeout.ms=10000"}
    ).bus
    group = KafkaGroupReader(ours, "consumer", "t", "g", None, buffer=1)  # type: ignore[arg-type]
    with pytest.raises(BusError, match=r"session\.timeout\.ms"):
        await group.start()


def test_a_consumer_that_would_ask_for_commits_and_cannot_be_made_is_one_of_our_errors(monkeypatch):
    monkeypatch.setattr(kafka_client, "AdminClient", lambda _properties: None)
    ours = load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_PROPERTIES": WRONG}).bus
    with pytest.raises(BusError, match=r"receive\.message\.max\.bytes"):
        KafkaAdmin(ours, print).committed("t", "g", 1)
