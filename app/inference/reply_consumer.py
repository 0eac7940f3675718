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
from app.inference.async_requests import AsyncRequest, AsyncRequests, Either
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
        self._calls: dict[bytes, PendingRequest] = {}
        # calls by model that no worker has begun to answer
        self.unanswered: Counter[str] = Counter()
        self.of_tenants: Counter[tuple[str, str]] = Counter()  # the same by model and tenant
        self.asynchronous = AsyncRequests(self._begun)
        self._either = Either(self._calls, self.asynchronous)
        self._reader: LogReader | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self.partition = -1

    async def start(self, used: Sequence[int]) -> None:
        """Takes the least used partition; `used` holds those of the other gateways, one entry each.
        Raises BusError.
        """
        count = await self._bus.partitions(self._topic)
        if not count:
            raise BusError(f"there is no topic {self._topic} yet")
        self.partition = min(
            range(count), key=lambda partition: (used.count(partition), random.random())
        )
        self._reader = await self._bus.log_reader(
            self._topic, [self.partition], Start.END, self._on_records
        )
        logger.info("reading replies on %s[%d]", self._topic, self.partition)

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()
        self.asynchronous.close()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def position(self) -> int:
        """The next offset to be read: no reply to a request that is not sent yet lies before it."""
        return self._reader.position(self.partition) if self._reader is not None else 0

    def expect(self, call: PendingRequest) -> None:
        self._calls[call.id.encode()] = call
        self._count(call.model, call.request.tenant, 1)
        self._empty.clear()

    def drop(self, call: PendingRequest) -> None:
        # not waiting, or another reader of the same request
        if self._calls.get(call.id.encode()) is not call:
            return
        self._remove(call)
        if not call.answered:
            self._begun(call.model, call.request.tenant)

    def detach(self, call: PendingRequest, one: AsyncRequest) -> None:
        """Nobody waits for the call any more; `one` is what is kept of it. While a worker is to
        begin it, it counts as before.
        """
        waits = self._calls.get(call.id.encode()) is call
        if waits:
            self._remove(call)
        one.waits = waits and not call.answered
        self.asynchronous.take(call, one)

    def _remove(self, call: PendingRequest) -> None:
        del self._calls[call.id.encode()]
        if not self._calls:
            self._empty.set()

    def _begun(self, model: str, tenant: str) -> None:
        self._count(model, tenant, -1)

    def _count(self, model: str, tenant: str, by: int) -> None:
        self.unanswered[model] += by
        self.of_tenants[model, tenant] += by

    async def empty(self, seconds: float) -> None:
        """Waits until no call waits, at most that long."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            logger.warning("%d calls still wait after %g s", len(self._calls), seconds)

    def calls(self) -> list[PendingRequest]:
        return list(self._calls.values())

    def _on_records(self, records: Sequence[Record]) -> None:
        wanted = self._either if self.asynchronous else self._calls
        for record in records:
            try:
                replies = decode_replies(record.headers, record.value, wanted)
            except UndecodableRecord as error:
                logger.warning("undecodable reply at %s[%d]@%d: %s", *record[:3], error)
                continue
            for reply in replies:
                id_ = reply.id.encode()
                call = self._calls.get(id_)
                if call is None:
                    self.asynchronous.feed(id_, reply)
                elif not call.from_log:
                    self._feed(call, reply, record.offset)

    def _feed(self, call: PendingRequest, reply: ReplyRecord, offset: int) -> None:
        began = call.answered
        step = call.feed(reply, offset)
        if call.answered and not began:
            self._begun(call.model, call.request.tenant)
        if step is RecordEffect.ENDED:
            self.drop(call)
