"""Following a whole topic: it knows when it has seen what was there at the start."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.bus.base import LogReader, Record, Since, Start, TopicSpec
from app.bus.topic_follower import TopicFollower
from app.errors import BusError
from tests.unit.scene import ScriptedBus, turns

TOPIC = "llm.control"


class RefusingBus(ScriptedBus):
    """Refuses to be read, as often as it is told to."""

    refuses = 0

    async def log_reader(self, *arguments: Any) -> LogReader:
        if self.refuses:
            self.refuses -= 1
            raise BusError("away")
        return await super().log_reader(*arguments)


@pytest.fixture
async def bus() -> RefusingBus:
    made = RefusingBus()
    await made.start()
    await made.ensure_topics([TopicSpec(TOPIC, 3)])
    return made


async def write(bus: ScriptedBus, *values: bytes) -> None:
    for number, value in enumerate(values):
        await bus.send(TOPIC, value, key=b"k", headers=[], partition=number % 3)


async def test_when_it_has_started_everything_that_was_there_has_been_handed_over(bus):
    await write(bus, *(b"%d" % number for number in range(1700)))
    seen: list[Record] = []
    await TopicFollower(bus, TOPIC, seen.extend).start(Start.BEGINNING)
    assert sorted(int(record.value or b"") for record in seen) == list(range(1700))


async def test_what_comes_later_is_handed_over_as_it_comes(bus):
    seen: list[Record] = []
    await TopicFollower(bus, TOPIC, seen.extend).start(Start.BEGINNING)
    await write(bus, b"a", b"b")
    await turns()
    assert {record.value for record in seen} == {b"a", b"b"}


@pytest.mark.parametrize("begin", [Start.END, Since(10**14)])
async def test_from_the_end_it_has_nothing_to_wait_for(bus, begin):
    await write(bus, b"a", b"b", b"c")
    seen: list[Record] = []
    await TopicFollower(bus, TOPIC, seen.extend).start(begin)
    assert seen == []


async def test_it_does_not_wait_for_what_comes_while_it_starts(bus):
    await write(bus, b"a")
    seen: list[Record] = []
    writing = asyncio.create_task(_keep_writing(bus))
    await TopicFollower(bus, TOPIC, seen.extend).start(Start.BEGINNING)
    writing.cancel()
    assert b"a" in {record.value for record in seen}


async def _keep_writing(bus: ScriptedBus) -> None:
    while True:
        await write(bus, b"new")
        await asyncio.sleep(0)


async def test_started_again_after_a_failure_it_reads_once(bus):
    await write(bus, b"a", b"b")
    seen: list[Record] = []
    follower = TopicFollower(bus, TOPIC, seen.extend)
    bus.refuses = 2
    for _ in range(2):
        with pytest.raises(BusError):
            await follower.start(Start.BEGINNING)
    await follower.start(Start.BEGINNING)
    await follower.start(Start.BEGINNING)
    await write(bus, b"c")
    await turns()
    assert sorted(record.value or b"" for record in seen) == [b"a", b"b", b"c"]


async def test_a_topic_that_is_not_there_yet_is_waited_for(bus):
    seen: list[Record] = []
    follower = TopicFollower(bus, "later", seen.extend)
    with pytest.raises(BusError, match="later"):
        await follower.start(Start.BEGINNING)
    await bus.ensure_topics([TopicSpec("later", 1)])
    await bus.send("later", b"a", key=b"k", headers=[], partition=0)
    await follower.start(Start.BEGINNING)
    assert [record.value for record in seen] == [b"a"]


async def test_it_starts_though_what_is_there_cannot_be_made_sense_of(bus):
    await write(bus, b"a")
    seen: list[bytes | None] = []

    def fault(records: Sequence[Record]) -> None:
        seen.extend(record.value for record in records)
        raise ValueError("of ours")

    follower = TopicFollower(bus, TOPIC, fault)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    await follower.start(Start.BEGINNING)
    await write(bus, b"b")
    await turns()
    assert seen == [b"a", b"b"]


async def test_closed_it_hands_over_nothing_more(bus):
    seen: list[Record] = []
    follower = TopicFollower(bus, TOPIC, seen.extend)
    await follower.close()
    await follower.start(Start.BEGINNING)
    await follower.close()
    await write(bus, b"a")
    await turns()
    assert seen == []
