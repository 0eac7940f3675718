"""Which partition a request goes to: one of the worker's with the most room."""

from collections import Counter

from app.catalog import Known
from app.contracts.presence import WorkerBeat


class Placement:
    """Remembers what it has sent to each worker since that worker's last heartbeat."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()

    def heard(self, worker: str) -> None:
        """A heartbeat came: what was sent before is in its numbers."""
        self._sent.pop(worker, None)

    def choose(self, known: Known) -> int | None:
        """A partition of the request topic, or None (any of them) while no worker that serves is known."""
        serving = [beat for beat in known.serving if beat.partitions]
        if not serving:
            return None
        best = max(serving, key=self._room)
        self._sent[best.worker] += 1
        self._turns[best.worker] += 1
        return best.partitions[self._turns[best.worker] % len(best.partitions)]

    def _room(self, beat: WorkerBeat) -> int:
        return beat.capacity - beat.in_flight - beat.waiting - self._sent[beat.worker]
