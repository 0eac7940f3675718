"""The ends of partitions: one question serves all who came before it, and none is answered with
what was known before it came.
"""

import asyncio
from collections import defaultdict

from app.bus.end_offsets import Ends
from tests.unit.scene import ScriptedBus, turns


class AskedBus(ScriptedBus):
    """Answers when a test says so, with what is true when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.end = 0
        self.answers: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def ends(self, topic: str) -> dict[int, int]:
        self.asked.append(topic)
        found = {0: self.end}
        await self.answers[topic].wait()
        return found


async def test_many_share_the_question_that_is_put_after_they_came() -> None:
    bus = AskedBus()
    ends = Ends(bus)
    first = asyncio.create_task(ends.of("t"))
    await turns()
    bus.end = 1  # written while the first question is under way
    others = [asyncio.create_task(ends.of("t")) for _ in range(100)]
    await turns()
    bus.answers["t"].set()
    assert await first == {0: 0}
    assert await asyncio.gather(*others) == [{0: 1}] * 100
    assert bus.asked == ["t", "t"]


async def test_topics_do_not_wait_for_each_other() -> None:
    bus = AskedBus()
    ends = Ends(bus)
    waiting = asyncio.create_task(ends.of("t"))
    bus.answers["u"].set()
    assert await ends.of("u") == {0: 0}
    bus.answers["t"].set()
    await waiting
