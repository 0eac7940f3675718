"""Which partition a request goes to: one of the worker's with the most room, in the half that is
for its tenant.
"""

from collections import Counter
from collections.abc import Sequence

from app.cluster.model_registry import ModelState
from app.protocol.heartbeats import WorkerHeartbeat
from app.protocol.lanes import split_into_lanes


class WorkerSelector:
    """Remembers what it has sent to each worker since that worker's last heartbeat."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()

    def heard(self, worker: str) -> None:
        """A heartbeat came: what was sent before is in its numbers."""
        self._sent.pop(worker, None)

    def choose(self, known: ModelState, *, crowd: bool = False) -> int | None:
        """A partition of the request topic, or None: any of them, as no worker that serves is known
        and no partition either.
        """
        serving = [beat for beat in known.serving if beat.partitions]
        if not serving:
            everywhere = split_into_lanes(tuple(sorted(known.ends)))[crowd]
            return self._turn(known.card.topic, everywhere) if everywhere else None
        if known.backlog and not crowd:
            best, partitions = self._beside_the_backlog(serving, known.backlog)
        else:
            best = max(serving, key=self._room)
            partitions = split_into_lanes(best.partitions)[crowd]
        self._sent[best.worker] += 1
        return self._turn(best.worker, partitions)

    def _beside_the_backlog(
        self, serving: Sequence[WorkerHeartbeat], backlog: frozenset[int]
    ) -> tuple[WorkerHeartbeat, tuple[int, ...]]:
        """Quiet partitions in which nothing waits, where there are any: a crowd may have been there
        before partitions moved.
        """
        quiet = {beat.worker: split_into_lanes(beat.partitions).interactive for beat in serving}
        free = {
            worker: tuple(p for p in half if p not in backlog) for worker, half in quiet.items()
        }
        best = max((beat for beat in serving if free[beat.worker]), key=self._room, default=None)
        if best is None:
            best, free = max(serving, key=self._room), quiet
        return best, free[best.worker]

    def _turn(self, whose: str, partitions: tuple[int, ...]) -> int:
        self._turns[whose] += 1
        return partitions[self._turns[whose] % len(partitions)]

    def _room(self, beat: WorkerHeartbeat) -> int:
        return beat.capacity - beat.in_flight - beat.waiting - self._sent[beat.worker]
