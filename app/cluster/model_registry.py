"""The models that a gateway knows: what their cards and their workers' heartbeats say."""

from dataclasses import dataclass, field, replace

from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat


@dataclass
class ModelState:
    """A model a gateway knows of, its workers that live, and what waits for them."""

    card: ModelRegistration
    workers: dict[str, WorkerHeartbeat] = field(default_factory=dict)
    queue_depth: int = 0
    # of the topic's partitions, when the queue was last measured
    ends: dict[int, int] = field(default_factory=dict)
    backlog: frozenset[int] = frozenset()  # partitions in which requests waited then
    started: int = 0  # requests begun since the topic was made, when the queue was last measured
    rate: float = 0.0  # requests begun per second while some waited; 0: not known yet

    @property
    def serving(self) -> list[WorkerHeartbeat]:
        """The workers that take requests: ready, not only started."""
        return [beat for beat in self.workers.values() if beat.ready]

    @property
    def why_unserved(self) -> str:
        """Why no worker takes the model's requests; empty where one does."""
        if self.serving:
            return ""
        reasons = sorted({beat.reason for beat in self.workers.values() if beat.reason})
        return "; ".join(reasons) or (
            "its workers are starting" if self.workers else "no worker of it is running"
        )

    @property
    def capacity(self) -> int:
        return sum(beat.capacity for beat in self.serving)

    def position(self, partition: int, offset: int) -> int:
        """Estimated requests ahead of this one, assuming round-robin over partitions: of each other
        one as many as of its own, or all that wait there; of the partitions with more, half come
        once more before it.
        """
        starts: dict[int, int] = {}
        for beat in self.workers.values():
            for name, start in beat.positions.items():
                starts[int(name)] = max(start, starts.get(int(name), 0))
        ahead = max(0, offset - starts.get(partition, offset))
        waiting = [
            end - starts[other]
            for other, end in self.ends.items()
            if other != partition and other in starts
        ]
        return (
            ahead
            + sum(max(0, min(depth, ahead)) for depth in waiting)
            + sum(depth > ahead for depth in waiting) // 2
        )

    def estimated_wait(self, waiting: int) -> float | None:
        """Seconds until `waiting` requests are begun, at the measured rate; None while that is not
        known.
        """
        return round(waiting / self.rate, 1) if self.rate else None

    def worker_of(self, id_: str) -> str:
        """The worker whose heartbeat lists the request; empty if none does."""
        return next((beat.worker for beat in self.workers.values() if id_ in beat.running), "")

    @property
    def in_flight(self) -> int:
        return sum(beat.in_flight for beat in self.workers.values())


class ModelRegistry:
    """Models by id and alias, as the cards and heartbeats so far describe them."""

    def __init__(self) -> None:
        self._known: dict[str, ModelState] = {}
        # ids and aliases; an id wins over another model's alias
        self._names: dict[str, ModelState] = {}
        self.gateways = 1  # that live, this one included

    def learn(self, card: ModelRegistration) -> None:
        known = self._known.setdefault(card.model, ModelState(card))
        # not when its newest worker started
        known.card = replace(card, created=min(card.created, known.card.created))
        self._index()

    def forget(self, model: str) -> None:
        self._known.pop(model, None)
        self._index()

    def heard(self, beat: WorkerHeartbeat) -> None:
        """A worker's heartbeat: it lives and serves, or it says that it leaves."""
        known = self._known.get(beat.model)
        if known is None:
            return  # its card comes on the models' topic; the next beat finds it
        if beat.leaving:
            known.workers.pop(beat.worker, None)
        else:
            known.workers[beat.worker] = beat

    def lost(self, worker: str) -> None:
        for known in self._known.values():
            known.workers.pop(worker, None)

    def find(self, name: str) -> ModelState | None:
        """The model with this id or alias."""
        return self._names.get(name)

    def all(self) -> list[ModelState]:
        return sorted(self._known.values(), key=lambda known: known.card.model)

    def _index(self) -> None:
        self._names = {
            alias: known for known in self._known.values() for alias in known.card.aliases
        }
        self._names.update(self._known)
