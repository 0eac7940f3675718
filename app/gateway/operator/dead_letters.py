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

_MAX_SHOWN = 10
_MAX_HEADER_CHARS = 200  # characters of a header: it may be anybody's record
_READ_TIMEOUT_SECONDS = 5.0  # seconds
_CACHE_SECONDS = 60.0  # those that are past their retention go too


class DeadLetterReader:
    """Reads their topic when it has grown; bodies are let go at once."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._read_lock = asyncio.Lock()
        self._end_offset = -1
        self._read_at = 0.0  # by the monotonic clock
        self._snapshot: dict[str, Any] = {}

    async def snapshot(self) -> dict[str, Any]:
        """`error` says why they cannot be told; `count` is then null."""
        async with self._read_lock:
            try:
                async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
                    await self._refresh()
            except (BusError, TimeoutError) as error:
                return {"count": None, "last": [], "error": str(error) or "the log does not answer"}
        return self._snapshot

    async def _refresh(self) -> None:
        # it would be told in the end, after longer than anybody should wait
        if unhealthy_reason := self._bus.healthy():
            raise BusError(unhealthy_reason)
        end_offset = (await self._bus.ends(self._topic)).get(0, 0)
        if end_offset == self._end_offset and time.monotonic() - self._read_at < _CACHE_SECONDS:
            return
        described_records: list[dict[str, Any]] = []

        def on_records(records: Sequence[Record]) -> None:
            described_records.extend(map(_describe_record, records))

        begin_offset = max(0, end_offset - _MAX_SHOWN)
        kept = await read_stretch(self._bus, self._topic, 0, begin_offset, end_offset, on_records)
        self._snapshot = {
            "count": end_offset - kept,
            "last": described_records[::-1],
            "error": None,
        }
        self._end_offset, self._read_at = end_offset, time.monotonic()


def _describe_record(record: Record) -> dict[str, Any]:
    dead_letter_headers, original_headers = dead_letters.split_marks(record.headers)
    return {
        "offset": record.offset,
        "at": record.timestamp / 1000,
        "model": dead_letters.get_original_header(original_headers, "model")[:_MAX_HEADER_CHARS],
        "id": dead_letters.get_original_header(original_headers, "id")[:_MAX_HEADER_CHARS],
        "origin": dead_letter_headers.get(dead_letters.ORIGIN_HEADER, "")[:_MAX_HEADER_CHARS],
        "reason": dead_letter_headers.get(dead_letters.REASON_HEADER, "")[:_MAX_HEADER_CHARS],
    }
