"""Reads one partition from an offset to its end, as it is when the reading begins."""

import asyncio
from collections.abc import Sequence

from app.bus.base import At, Bus, OnRecords, Record


async def scan(bus: Bus, topic: str, partition: int, begin: int, on_records: OnRecords) -> int:
    """Hands over what lies there; returns the first offset that is still kept. Raises BusError."""
    caught_up = asyncio.Event()

    def seen(records: Sequence[Record]) -> None:
        on_records(records)
        if records[-1].offset + 1 >= end.result():
            caught_up.set()

    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    reader = await bus.log_reader(topic, [partition], At(begin), seen)
    try:
        low, high = reader.bounds(partition)
        end.set_result(high)
        if reader.position(partition) < high:
            await caught_up.wait()
        return low
    finally:
        await reader.close()
