"""Whatever librdkafka says of a send, who waits for it hears one of our own errors."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from app.bus.kafka import producer as kafka_producer
from app.bus.kafka.producer import KafkaProducer
from app.config.settings import load_settings
from app.errors import BusError, BusFull, NotDelivered, RecordTooLarge, Unconfirmed

CODES = sorted(
    {value for name, value in vars(KafkaError).items() if isinstance(value, int) and name.isupper()}
    - {0}
)
SETTINGS = load_settings({"BOOTSTRAP_SERVERS": "127.0.0.1:1"}).bus
OURS = {KafkaError._QUEUE_FULL: BusFull, KafkaError.MSG_SIZE_TOO_LARGE: RecordTooLarge}


class FakeProducer:
    """librdkafka's producer as far as we use it: `fault` is raised by produce, or else `report`
    comes as its delivery.
    """

    fault: BaseException | None = None
    report: KafkaError | None = None
    offset: int | None = 4

    def __init__(self, _properties: Any) -> None:
        self._due: SimpleQueue[Callable[[KafkaError | None], None]] = SimpleQueue()
        self._purged: KafkaError | None = None

    def produce(self, *_: Any, on_delivery: Callable[[Any, Any], None], **__: Any) -> None:
        if self.fault:
            raise self.fault
        report, offset = self.report, self.offset
        message = SimpleNamespace(partition=lambda: 3, offset=lambda: offset)
        self._due.put(lambda purged: on_delivery(purged or report, message))

    def poll(self, timeout: float) -> None:
        try:
            self._due.get(timeout=min(timeout, 0.005))(self._purged)
        except Empty:
            return

    def flush(self, _timeout: float) -> None:
        while not self._due.empty():
            self.poll(0)

    def purge(self) -> None:
        self._purged = KafkaError(KafkaError._PURGE_QUEUE)


@pytest.fixture
async def producer(monkeypatch):
    monkeypatch.setattr(kafka_producer, "Producer", FakeProducer)
    made = KafkaProducer(SETTINGS)
    yield made
    await made.close()


def send(producer: KafkaProducer) -> Any:
    return producer.send("t", b"", b"k", [], None)


async def test_an_acknowledged_record_has_its_place(producer):
    assert await send(producer) == (3, 4)


async def test_a_success_without_an_offset_is_none(producer, monkeypatch):
    monkeypatch.setattr(FakeProducer, "offset", None)
    with pytest.raises(Unconfirmed):
        await send(producer)


@pytest.mark.parametrize("where", ["report", "fault"])
async def test_every_error_of_a_send_is_one_of_ours(producer, monkeypatch, where):
    for code in CODES:
        error = KafkaError(code)
        monkeypatch.setattr(
            FakeProducer, where, error if where == "report" else KafkaException(error)
        )
        future = send(producer)
        with pytest.raises(BusError) as raised:
            await future
        assert type(raised.value) is OURS.get(code, NotDelivered), error.name()
        assert str(raised.value) == error.str()


async def test_a_full_local_queue_is_back_pressure_at_once(producer, monkeypatch):
    monkeypatch.setattr(FakeProducer, "fault", BufferError("Local: Queue full"))
    with pytest.raises(BusFull):
        send(producer)


async def test_one_who_has_given_up_waiting_disturbs_nobody(producer):
    send(producer).cancel()
    assert await send(producer) == (3, 4)


async def test_after_a_fatal_error_a_new_producer_takes_over(producer, caplog):
    caplog.set_level(logging.WARNING, "app.bus.kafka")
    before = producer._producer
    producer.on_error(KafkaError(KafkaError._FATAL, "sequence", fatal=True))
    while producer._producer is before:
        with suppress(NotDelivered):  # what the old one still had
            await send(producer)
    assert await send(producer) == (3, 4)
    assert "made anew" in caplog.text


class Slow(FakeProducer):
    """Reports nothing while it is polled; at its end what it is given the time for, if it `reports`
    at all.
    """

    reports = True

    def poll(self, timeout: float) -> None:
        Event().wait(min(timeout, 0.005))

    def flush(self, timeout: float) -> None:
        while self.reports and timeout and not self._due.empty():
            super().poll(0)


@pytest.mark.parametrize("reports", [True, False])
async def test_what_a_producer_that_had_a_fatal_error_still_has_is_told_to_who_waits_for_it(
    monkeypatch, reports
):
    monkeypatch.setattr(kafka_producer, "Producer", Slow)
    monkeypatch.setattr(Slow, "reports", reports)
    producer = KafkaProducer(SETTINGS)
    waiting = [send(producer) for _ in range(3)]
    monkeypatch.setattr(kafka_producer, "Producer", FakeProducer)
    producer.on_error(KafkaError(KafkaError._FATAL, "sequence", fatal=True))
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [NotDelivered] * 3
    assert await send(producer) == (3, 4)
    await asyncio.sleep(60)
    assert producer.trouble() == "", "nothing is under way any more"
    await producer.close()
