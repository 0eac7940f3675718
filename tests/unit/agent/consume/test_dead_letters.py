"""A dead letter comes into its topic whatever the topic's limits are, and nobody waits for it in
silence.
"""

from asyncio import Future

import pytest

from app.agent.consume.dead_letters import dead_letter
from app.bus.base import Place
from app.bus.topic_configs import shared_specs
from app.errors import RecordTooLarge
from app.protocol.records import Headers
from tests.unit.scene import FULL, LOST, TOPICS, ScriptedBus, log_of, settings, started_bus

ORIGIN = ("llm.requests.m", 0, 7)


class SmallBus(ScriptedBus):
    """Takes records of so many bytes, as a broker counts them: with their headers."""

    most = 1000

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        if len(value or b"") + sum(len(name) + len(said) for name, said in headers) > self.most:
            raise RecordTooLarge(f"more than {self.most} bytes")
        return super().send(topic, value, key=key, headers=headers, partition=partition)


async def buried(
    bus: ScriptedBus, value: bytes | None, headers: Headers
) -> tuple[bytes | None, dict[str, bytes]]:
    """What lies in the topic then."""
    await dead_letter(bus, TOPICS.dlq, ORIGIN, headers, value, "it died")
    (letter,) = await log_of(bus, TOPICS.dlq)
    return letter.value, dict(letter.headers)


async def test_each_try_that_the_log_does_not_take_is_in_our_own_log(caplog):
    bus = await started_bus()
    bus.scripted = TOPICS.dlq
    bus.script.extend([LOST, FULL])
    value, headers = await buried(bus, b"body", [("id", b"1")])
    assert (value, headers) == (
        b"body",
        {"dlq-origin": b"llm.requests.m/0/7", "dlq-reason": b"it died", "id": b"1"},
    )
    assert "dead letter from llm.requests.m/0/7: not done yet: as scripted" in caplog.text


@pytest.fixture
async def small():
    bus = SmallBus()
    await bus.start()
    await bus.ensure_topics(shared_specs(settings().bus, TOPICS))
    return bus


async def test_one_that_is_too_large_keeps_its_headers_and_the_beginning_of_its_value(
    small, caplog
):
    body = b"".join(b"%d," % number for number in range(2000))
    value, headers = await buried(small, body, [("id", b"1")])
    assert value
    assert body.startswith(value)
    assert 400 < len(value) < 1000
    assert (headers["id"], headers["dlq-cut"]) == (b"1", str(len(body)).encode())
    assert "the dead letter from llm.requests.m/0/7 is cut" in caplog.text


async def test_where_its_headers_alone_are_too_large_they_are_left_out(small):
    value, headers = await buried(small, b"body", [("odd", bytes(2000))])
    assert (value, headers["dlq-cut"], headers["dlq-reason"], "odd" in headers) == (
        b"",
        b"4",
        b"it died",
        False,
    )


async def test_a_topic_that_takes_nothing_at_all_is_an_error(small):
    small.most = 10
    with pytest.raises(RecordTooLarge):
        await dead_letter(small, TOPICS.dlq, ORIGIN, [], None, "it died")
