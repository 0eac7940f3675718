"""The dead letters as the operator's view has them: how many, and of the last ones which, from
where and why; no bodies.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from app.bus.base import Bus, Record
from app.errors import BusError
from app.protocol import dead_letters
from app.reply_log.record_scanner import read_stretch

_SHOWN = 10
_LONGEST = 200  # characters of a header: it may be anybody's record
_PATIENCE = 5.0  # seconds
_KEPT_SECONDS = 60.0  # those that are past their retention go too


class DeadLetters:
    """Reads their topic when it has grown; bodies are let go at once."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._reading = asyncio.Lock()
        self._end = -1
        self._read_at = 0.0  # by the monotonic clock
        self._found: dict[str, Any] = {}

    async def described(self) -> dict[str, Any]:
        """`error` says why they cannot be told; `count` is then null."""
        async with self._reading:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._look()
            except (BusError, TimeoutError) as error:
                return {"count": None, "last": [], "error": str(error) or "the log does not answer"}
        return self._found

    async def _look(self) -> None:
        # it would be told in the end, after longer than anybody should wait
        if trouble := self._bus.healthy():
            raise BusError(trouble)
        end = (await self._bus.ends(self._topic)).get(0, 0)
        if end == self._end and time.monotonic() - self._read_at < _KEPT_SECONDS:
            return
        last: list[dict[str, Any]] = []

        def seen(records: Sequence[Record]) -> None:
            last.extend(map(_described, records))

        begin = max(0, end - _SHOWN)
        kept = await read_stretch(self._bus, self._topic, 0, begin, end, seen)
        self._found = {"count": end - kept, "last": last[::-1], "error": None}
        self._end, self._read_at = end, time.monotonic()


def _described(record: Record) -> dict[str, Any]:
    said, own = dead_letters.split(record.headers)
    return {
        "offset": record.offset,
        "at": record.timestamp / 1000,
        "model": dead_letters.own(own, "model")[:_LONGEST],
        "id": dead_letters.own(own, "id")[:_LONGEST],
        "origin": said.get(dead_letters.ORIGIN, "")[:_LONGEST],
        "reason": said.get(dead_letters.REASON, "")[:_LONGEST],
    }
