"""Writes replies to the reply log. Under load those of several requests that go to one gateway
share a record.

What begins a reply goes out at once, and what waits goes along. What goes on with one waits for a
few milliseconds if a record has just gone to that gateway; and everything waits while too many
records are not acknowledged. So one stream never waits, the first token of any stream hardly, and a
record that costs three processes a wake-up each has many tokens when there are many.
"""

import asyncio
from asyncio import Future, TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from app.bus.base import Bus, Place
from app.errors import BusFull, RecordTooLarge
from app.protocol.records import MAX_REPLY_RECORD_BYTES, ReplyRecord
from app.protocol.reply_batch import encode_batch

Acknowledged: TypeAlias = Callable[[ReplyRecord, BaseException | None], None]

_UNDER_WAY = 2  # records of a partition that are not acknowledged
# between two records of tokens; 32 streams of 50 tokens/s took half the CPU with 0.003 than with
# none
PACE_SECONDS = 0.004


@dataclass(slots=True)
class _Lane:
    """One reply partition: one gateway, mostly."""

    partition: int
    under_way: int = 0
    gathering: bool = False
    urgent: bool = False  # a reply's beginning waits
    pace: TimerHandle | None = None  # while a record has just gone
    waiting: deque[tuple[ReplyRecord, Acknowledged]] = field(default_factory=deque)


class ReplyBatcher:
    """One per worker. `may_join`: everybody who reads replies knows records with several of
    them.
    """

    def __init__(self, bus: Bus, topic: str, may_join: Callable[[], bool]) -> None:
        self._bus = bus
        self._topic = topic
        self._may_join = may_join
        self._lanes: dict[int, _Lane] = {}

    def send(self, partition: int, reply: ReplyRecord, acknowledged: Acknowledged) -> None:
        """`acknowledged` hears whether the log has it. No other reply of that id is to be sent
        before.
        """
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(partition)
        if not self._may_join():
            self._write(lane, [(reply, acknowledged)])
            return
        lane.waiting.append((reply, acknowledged))
        lane.urgent = lane.urgent or not reply.seq
        self._write_what_may_go(lane)

    def _write_what_may_go(self, lane: _Lane) -> None:
        while (
            lane.waiting
            and lane.under_way < _UNDER_WAY
            and not lane.gathering
            and (lane.urgent or lane.pace is None)
        ):
            lane.urgent = False
            self._write(lane, _gather(lane.waiting))
            if lane.pace is None:
                lane.pace = asyncio.get_running_loop().call_later(PACE_SECONDS, self._go_on, lane)

    def _go_on(self, lane: _Lane) -> None:
        lane.pace = None
        self._write_what_may_go(lane)

    def _write(self, lane: _Lane, batch: list[tuple[ReplyRecord, Acknowledged]]) -> None:
        first = batch[0][0]
        if len(batch) == 1:
            key, headers, value = first.id, first.encode_headers(), first.value
        else:
            key, (headers, value) = first.owner, encode_batch([reply for reply, _ in batch])
        try:
            sent = self._bus.send(
                self._topic, value, key=key.encode(), headers=headers, partition=lane.partition
            )
        except BusFull as error:
            _tell(batch, error)
            return
        lane.under_way += 1
        sent.add_done_callback(lambda future: self._done(lane, batch, future))

    def _done(
        self, lane: _Lane, batch: list[tuple[ReplyRecord, Acknowledged]], future: "Future[Place]"
    ) -> None:
        lane.under_way -= 1
        lane.gathering = True  # what these send in turn goes out together
        error = future.exception()
        if isinstance(error, RecordTooLarge) and len(batch) > 1:
            for one in batch:  # none of them ends for the sake of the others
                self._write(lane, [one])
        else:
            _tell(batch, error)
        lane.gathering = False
        self._write_what_may_go(lane)


def _tell(batch: list[tuple[ReplyRecord, Acknowledged]], error: BaseException | None) -> None:
    for reply, acknowledged in batch:
        acknowledged(reply, error)


def _gather(
    waiting: deque[tuple[ReplyRecord, Acknowledged]],
) -> list[tuple[ReplyRecord, Acknowledged]]:
    """As much as fits into one record."""
    batch = [waiting.popleft()]
    size = len(batch[0][0].value)
    while waiting and (size := size + len(waiting[0][0].value)) <= MAX_REPLY_RECORD_BYTES:
        batch.append(waiting.popleft())
    return batch
