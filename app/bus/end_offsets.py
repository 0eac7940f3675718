"""The ends of topics' partitions, asked for by one question at a time, however many want to
know.
"""

import asyncio
from collections import defaultdict

from app.bus.base import Bus


class Ends:
    """Asks the bus. An answer serves all callers who came before its question was put."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._callers = 0
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # callers before the question; the answer
        self._latest: dict[str, tuple[int, dict[int, int]]] = {}

    async def of(self, topic: str) -> dict[int, int]:
        """Return the next offset to be written in each partition, no older than this call. Raises
        BusError.
        """
        self._callers += 1
        number = self._callers
        async with self._locks[topic]:
            served, ends = self._latest.get(topic, (0, {}))
            if served < number:
                served, ends = self._callers, await self._bus.ends(topic)
                self._latest[topic] = served, ends
            return ends
