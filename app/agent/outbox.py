"""Writes replies to the reply log. Under load those of several requests that go to one gateway share a record.

The first records to a partition go out as they come. While so many of them are not acknowledged, what comes waits, and goes out
in one record with the next acknowledgement: light load is immediate, heavy load cheap.
"""

from asyncio import Future
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from app.bus.base import Bus, Place
from app.contracts.envelope import MAX_REPLY_BYTES, Reply
from app.contracts.joined import join
from app.errors import BusFull

Acknowledged: TypeAlias = Callable[[Reply, BaseException | None], None]

_UNDER_WAY = 2  # records of a partition that are not acknowledged


@dataclass(slots=True)
class _Lane:
    """One reply partition: one gateway, mostly."""

    partition: int
    under_way: int = 0
    gathering: bool = False
    waiting: deque[tuple[Reply, Acknowledged]] = field(default_factory=deque)


class Outbox:
    """One per worker. `may_join`: everybody who reads replies knows records with several of them."""

    def __init__(self, bus: Bus, topic: str, may_join: Callable[[], bool]) -> None:
        self._bus = bus
        self._topic = topic
        self._may_join = may_join
        self._lanes: dict[int, _Lane] = {}

    def send(self, partition: int, reply: Reply, acknowledged: Acknowledged) -> None:
        """`acknowledged` hears whether the log has it. No other reply of that id is to be sent before."""
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(partition)
        if (lane.under_way >= _UNDER_WAY or lane.gathering) and self._may_join():
            lane.waiting.append((reply, acknowledged))
        else:
            self._write(lane, [(reply, acknowledged)])

    def _write(self, lane: _Lane, batch: list[tuple[Reply, Acknowledged]]) -> None:
        first = batch[0][0]
        if len(batch) == 1:
            key, headers, value = first.id, first.headers(), first.value
        else:
            key, (headers, value) = first.owner, join([reply for reply, _ in batch])
        try:
            sent = self._bus.send(self._topic, value, key=key.encode(), headers=headers, partition=lane.partition)
        except BusFull as error:
            _tell(batch, error)
            return
        lane.under_way += 1
        sent.add_done_callback(lambda future: self._done(lane, batch, future))

    def _done(self, lane: _Lane, batch: list[tuple[Reply, Acknowledged]], future: "Future[Place]") -> None:
        lane.under_way -= 1
        lane.gathering = True  # what these send in turn goes out together
        _tell(batch, future.exception())
        lane.gathering = False
        while lane.waiting and lane.under_way < _UNDER_WAY:
            self._write(lane, _gather(lane.waiting))


def _tell(batch: list[tuple[Reply, Acknowledged]], error: BaseException | None) -> None:
    for reply, acknowledged in batch:
        acknowledged(reply, error)


def _gather(waiting: deque[tuple[Reply, Acknowledged]]) -> list[tuple[Reply, Acknowledged]]:
    """As much as fits into one record."""
    batch = [waiting.popleft()]
    size = len(batch[0][0].value)
    while waiting and (size := size + len(waiting[0][0].value)) <= MAX_REPLY_BYTES:
        batch.append(waiting.popleft())
    return batch
