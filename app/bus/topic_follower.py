"""Follows a whole topic and knows when it has seen what was there at the start."""

import asyncio
from collections.abc import Sequence

from app.bus.base import Bus, From, LogReader, OnRecords, Record
from app.errors import BusError


class TopicFollower:
    """A log reader over all partitions of one topic."""

    def __init__(self, bus: Bus, topic: str, on_records: OnRecords) -> None:
        self._bus = bus
        self._topic = topic
        self._on_records = on_records
        self._reader: LogReader | None = None
        self._ends: dict[int, int] = {}
        self._caught_up = asyncio.Event()

    async def start(self, begin: From) -> None:
        """Returns when everything from `begin` to the topic's end of this moment has been handed
        over.

        Raises BusError; may then be called again.
        """
        if self._reader is None:
            self._ends = await self._bus.ends(self._topic)
            if not self._ends:  # also where a broker that has not heard of it yet was asked
                raise BusError(f"topic {self._topic} is not there yet")
            self._reader = await self._bus.log_reader(
                self._topic, sorted(self._ends), begin, self._seen
            )
        self._check()
        await self._caught_up.wait()

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()

    def _seen(self, records: Sequence[Record]) -> None:
        try:
            self._on_records(records)
        finally:  # what raised is behind it all the same
            if not self._caught_up.is_set():
                self._check()

    def _check(self) -> None:
        reader = self._reader
        if reader is not None and all(
            reader.position(partition) >= end for partition, end in self._ends.items()
        ):
            self._caught_up.set()
