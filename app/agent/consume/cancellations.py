"""What gateways and other workers signal: cancels, remembered so that a request can be cancelled
before anyone has seen it.
"""

import time
from collections.abc import Callable, Sequence

from app.bus.base import Bus, Record, Since
from app.bus.topic_follower import TopicFollower
from app.errors import UndecodableRecord
from app.protocol.records import ControlRecord


class Cancellations:
    """Reads the control topic from as far back as a request can be; `on_control` sees each signal
    once.
    """

    def __init__(
        self, bus: Bus, topic: str, remember: float, on_control: Callable[[ControlRecord], None]
    ) -> None:
        self._follower = TopicFollower(bus, topic, self._on_records)
        self._remember = remember  # seconds
        self._on_control = on_control
        self._cancelled: dict[str, float] = {}

    async def start(self) -> None:
        """Returns when what was signalled before has been read, so nothing cancelled is begun."""
        await self._follower.start(Since(int((time.time() - self._remember) * 1000)))

    async def close(self) -> None:
        await self._follower.close()

    def is_cancelled(self, id_: str) -> bool:
        return id_ in self._cancelled

    def _on_records(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                control = ControlRecord.decode(record.headers)
            except UndecodableRecord:
                continue  # a signal is only ever a help
            if control.kind == ControlRecord.CANCEL:
                self._cancelled[control.id] = record.timestamp / 1000
            self._on_control(control)
        self._forget_old()

    def _forget_old(self) -> None:
        oldest = time.time() - self._remember
        while (
            self._cancelled
            and (first := next(iter(self._cancelled)))
            and self._cancelled[first] < oldest
        ):
            del self._cancelled[first]
