"""What the other workers say they run. A worker whose heartbeat is younger than three intervals is
alive.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.bus.base import Bus, Record, Since
from app.bus.topic_follower import TopicFollower
from app.cluster.suspend_aware_clock import SuspendAwareClock
from app.errors import UndecodableRecord
from app.protocol.heartbeats import (
    HEARTBEAT_TIMEOUT_INTERVALS,
    GatewayHeartbeat,
    WorkerHeartbeat,
    decode_heartbeat,
)
from app.protocol.records import SUPPORTED_VERSIONS

_LATELY_SECONDS = 60.0
_REMEMBERED_SECONDS = 600.0  # after a worker fell silent


@dataclass(slots=True)
class _Peer:
    beat: WorkerHeartbeat
    running: frozenset[str]
    # by the clock of who listens: when it is taken for dead unless it is heard again
    silent_at: float


class Peers:
    """Follows the workers' topic."""

    def __init__(self, bus: Bus, topic: str, interval: float, own: str) -> None:
        self._follower = TopicFollower(bus, topic, self._on_records)
        self._clock = SuspendAwareClock(interval / 2)
        self._interval = interval
        self._own = own
        self._caught_up = False
        self._peers: dict[str, _Peer] = {}
        # with when each is taken for dead
        self._gateways: dict[str, tuple[GatewayHeartbeat, float]] = {}
        self._versions = frozenset(SUPPORTED_VERSIONS)  # of records that all who live read
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Returns when every worker that lives is known, and every one that died a moment ago."""
        self._clock.start()
        since = time.time() - max(HEARTBEAT_TIMEOUT_INTERVALS * self._interval, _LATELY_SECONDS)
        await self._follower.start(Since(int(since * 1000)))
        self._caught_up = True

    async def close(self) -> None:
        self._clock.close()
        await self._follower.close()

    def runs(self, id_: str) -> bool:
        """Another worker that lives says that it runs this request."""
        return any(id_ in peer.running for peer in self._living())

    def running_count(self) -> int:
        """How many requests the other workers that live run."""
        return sum(len(peer.running) for peer in self._living())

    def holds(self, group: str, partition: int) -> bool:
        """Another worker that lives still counts this partition as its own: what it runs of it is
        not settled yet.
        """
        return any(
            peer.beat.group == group and partition in peer.beat.partitions
            for peer in self._living()
        )

    def lives(self, worker: str) -> bool:
        return worker in self._peers and self._peers[worker].silent_at > self._clock.now()

    def died_with(self, id_: str) -> bool:
        """A worker fell silent, without leaving, while it ran this request."""
        now = self._clock.now()
        return any(id_ in peer.running and peer.silent_at <= now for peer in self._peers.values())

    def died_without(self, id_: str) -> bool:
        """Lately a worker fell silent, without leaving, that did not run this request: something
        else ends workers too.
        """
        now = self._clock.now()
        return any(
            now - _LATELY_SECONDS < peer.silent_at <= now and id_ not in peer.running
            for peer in self._peers.values()
        )

    def reply_topics(self) -> set[str]:
        """What the gateways that live read."""
        return {beat.replies for beat in self._beats() if isinstance(beat, GatewayHeartbeat)}

    def all_read(self, version: int) -> bool:
        """Everybody who lives, gateways and workers, reads records of this version."""
        return version in self._versions

    async def change(self) -> None:
        """Returns after the next heartbeat, or when one that is due has not come."""
        now = self._clock.now()
        due = min((peer.silent_at for peer in self._living()), default=now + self._interval)
        try:
            async with asyncio.timeout(max(0.01, min(due - now, self._interval))):
                await self._changed.wait()
        except TimeoutError:
            return

    def _beats(self) -> list[WorkerHeartbeat | GatewayHeartbeat]:
        """The last ones of all who live."""
        now = self._clock.now()
        gateways = [beat for beat, silent_at in self._gateways.values() if silent_at > now]
        return [*gateways, *(peer.beat for peer in self._living())]

    def _living(self) -> list[_Peer]:
        now = self._clock.now()
        return [peer for peer in self._peers.values() if peer.silent_at > now]

    def _on_records(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                beat = decode_heartbeat(record.value or b"")
            except UndecodableRecord:
                continue  # the gateways name it in their logs
            silent_at = self._clock.now() + beat.heartbeat_timeout_seconds - self._age(record)
            if isinstance(beat, GatewayHeartbeat):
                self._gateways[beat.gateway] = (beat, silent_at)
            elif beat.worker != self._own:
                self._heard(beat, silent_at)
        self._forget_the_dead()
        self._versions = frozenset(SUPPORTED_VERSIONS).intersection(
            *(beat.reads for beat in self._beats())
        )
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _age(self, record: Record) -> float:
        """Seconds since it was sent, by the sender's clock and ours: so only of what lay there
        before this worker came.
        """
        return 0.0 if self._caught_up else max(0.0, time.time() - record.timestamp / 1000)

    def _heard(self, beat: WorkerHeartbeat, silent_at: float) -> None:
        if beat.gone:
            self._peers.pop(beat.worker, None)
        else:
            self._peers[beat.worker] = _Peer(beat, frozenset(beat.running), silent_at)

    def _forget_the_dead(self) -> None:
        """Dead workers are remembered for a while: who takes over asks whether they died with a
        request.
        """
        now = self._clock.now()
        for gateway in [
            gateway for gateway, (_, silent_at) in self._gateways.items() if silent_at <= now
        ]:
            del self._gateways[gateway]
        oldest = now - _REMEMBERED_SECONDS
        for worker in [worker for worker, peer in self._peers.items() if peer.silent_at < oldest]:
            del self._peers[worker]
