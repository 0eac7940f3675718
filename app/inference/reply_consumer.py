"""Where a gateway's replies arrive: one partition of the reply topic, read by assignment, and the
calls that wait.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence

from app.bus.base import Bus, LogReader, Record, Start
from app.errors import BusError, UndecodableRecord
from app.inference.async_requests import AsyncRequest, AsyncRequests, WantedIds
from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord
from app.protocol.reply_batch import decode_replies
from app.protocol.reply_state import RecordEffect

logger = logging.getLogger("app.inference.reply_consumer")


class ReplyConsumer:
    """Hands each record of the partition to the call with its id; other records pass by."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._pending_requests: dict[bytes, PendingRequest] = {}
        # calls by model that no worker has begun to answer
        self.unstarted_by_model: Counter[str] = Counter()
        # the same by model and tenant
        self.unstarted_by_tenant: Counter[tuple[str, str]] = Counter()
        self.async_requests = AsyncRequests(self._on_started)
        self._wanted_ids = WantedIds(self._pending_requests, self.async_requests)
        self._reader: LogReader | None = None
        self._idle_event = asyncio.Event()
        self._idle_event.set()
        self.partition = -1

    async def start(self, used_partitions: Sequence[int]) -> None:
        """Takes the least used partition; `used_partitions` holds those of the other gateways, one
        entry each. Raises BusError.
        """
        count = await self._bus.partitions(self._topic)
        if not count:
            raise BusError(f"there is no topic {self._topic} yet")
        self.partition = min(
            range(count), key=lambda partition: (used_partitions.count(partition), random.random())
        )
        self._reader = await self._bus.log_reader(
            self._topic, [self.partition], Start.END, self._on_records
        )
        logger.info("reading replies on %s[%d]", self._topic, self.partition)

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()
        self.async_requests.close()

    def __len__(self) -> int:
        return len(self._pending_requests)

    @property
    def position(self) -> int:
        """The next offset to be read: no reply to a request that is not sent yet lies before it."""
        return self._reader.position(self.partition) if self._reader is not None else 0

    def add_request(self, pending: PendingRequest) -> None:
        self._pending_requests[pending.id.encode()] = pending
        self._adjust_unstarted(pending.model_id, pending.request.tenant, 1)
        self._idle_event.clear()

    def remove_request(self, pending: PendingRequest) -> None:
        # not waiting, or another reader of the same request
        if self._pending_requests.get(pending.id.encode()) is not pending:
            return
        self._delete_request(pending)
        if not pending.has_started:
            self._on_started(pending.model_id, pending.request.tenant)

    def detach_client(self, pending: PendingRequest, async_request: AsyncRequest) -> None:
        """Nobody waits for the call any more; `async_request` is what is kept of it. While a worker
        is to begin it, it counts as before.
        """
        was_pending = self._pending_requests.get(pending.id.encode()) is pending
        if was_pending:
            self._delete_request(pending)
        async_request.is_waiting = was_pending and not pending.has_started
        self.async_requests.add_request(pending, async_request)

    def _delete_request(self, pending: PendingRequest) -> None:
        del self._pending_requests[pending.id.encode()]
        if not self._pending_requests:
            self._idle_event.set()

    def _on_started(self, model: str, tenant: str) -> None:
        self._adjust_unstarted(model, tenant, -1)

    def _adjust_unstarted(self, model: str, tenant: str, delta: int) -> None:
        self.unstarted_by_model[model] += delta
        self.unstarted_by_tenant[model, tenant] += delta

    async def wait_until_idle(self, timeout_seconds: float) -> None:
        """Waits until no call waits, at most that long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle_event.wait()
        except TimeoutError:
            logger.warning(
                "%d calls still wait after %g s", len(self._pending_requests), timeout_seconds
            )

    def pending_requests(self) -> list[PendingRequest]:
        return list(self._pending_requests.values())

    def _on_records(self, records: Sequence[Record]) -> None:
        wanted_ids = self._wanted_ids if self.async_requests else self._pending_requests
        for record in records:
            try:
                replies = decode_replies(record.headers, record.value, wanted_ids)
            except UndecodableRecord as error:
                logger.warning("undecodable reply at %s[%d]@%d: %s", *record[:3], error)
                continue
            for reply in replies:
                id_ = reply.id.encode()
                pending = self._pending_requests.get(id_)
                if pending is None:
                    self.async_requests.apply_record(id_, reply)
                elif not pending.is_fed_from_log:
                    self._apply_record(pending, reply, record.offset)

    def _apply_record(self, pending: PendingRequest, reply: ReplyRecord, offset: int) -> None:
        had_started = pending.has_started
        effect = pending.apply_record(reply, offset)
        if pending.has_started and not had_started:
            self._on_started(pending.model_id, pending.request.tenant)
        if effect is RecordEffect.ENDED:
            self.remove_request(pending)
