"""Gateways on one memory bus and one store, and a worker that does what a test says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from app.bus.base import Record, Start
from app.errors import GatewayError
from app.gateway.gateway import Gateway
from app.inference.pending_request import PendingRequest
from app.inference.submission import Submission, Ticket
from app.openai_api.sse import DONE_EVENT
from app.protocol.heartbeats import ModelRegistration, encode_message
from app.protocol.records import ControlRecord, ReplyRecord, RequestRecord
from app.protocol.reply_state import CLAIM, COMPLETED, DATA, FAILED, FINAL
from app.stores.memory import MemoryStore
from tests.unit.gateway.calls import EVENTS
from tests.unit.scene import (
    MODEL,
    REQUESTS,
    TOPICS,
    ScriptedBus,
    body,
    request,
    send_reply,
    send_request,
    settings,
    started_bus,
    turns,
    until,
)

CARD = ModelRegistration(MODEL, REQUESTS, "llm.m")


def submission(**members: Any) -> Submission:
    asked = {
        "path": "/chat/completions",
        "body": body(stream=True),
        "model": MODEL,
        "stream": True,
        "tenant": "t",
        "timeout_seconds": 60,
    }
    return Submission(**{**asked, **members})


class NamedStore(MemoryStore):
    """Knows the names that were asked for."""

    def __init__(self) -> None:
        super().__init__(clock=asyncio.get_running_loop().time)
        self.names: list[str] = []

    async def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        self.names.append(key)
        return await super().put_if_absent(key, value, ttl_seconds)


class House:
    def __init__(self, bus: ScriptedBus, store: NamedStore, environment: dict[str, str]) -> None:
        self.bus = bus
        self.store = store
        self.environment = environment
        self.gateways: list[Gateway] = []
        self.requests: list[RequestRecord] = []  # as they lie in the log
        self.controls: list[ControlRecord] = []

    async def open(self) -> None:
        await self.bus.log_reader(REQUESTS, [0, 1], Start.BEGINNING, self._on_requests)
        await self.bus.log_reader(TOPICS.control, [0, 1], Start.BEGINNING, self._on_controls)
        await self.announce(CARD)

    async def announce(self, card: ModelRegistration) -> None:
        """Writes a model's card, as a worker does at its start."""
        await self.bus.send(
            TOPICS.models, encode_message(card), key=card.model.encode(), headers=[]
        )

    def _on_requests(self, records: Any) -> None:
        self.requests += [RequestRecord.decode(record.headers, record.value) for record in records]

    def _on_controls(self, records: list[Record]) -> None:
        self.controls += [ControlRecord.decode(record.headers) for record in records]

    async def gateway(self) -> Gateway:
        made = Gateway(self.bus, self.store, settings(**self.environment))
        await made.start()
        self.gateways.append(made)
        return made

    async def kill(self, gateway: Gateway) -> None:
        """The gateway does no more, and gives nothing back; the bus and the store are the others'
        too.
        """
        self.gateways.remove(gateway)
        await gateway._membership.close()
        await gateway._reply_consumer.close()
        gateway.limiter.concurrency_leases.close()
        # so that what it still does reaches no other gateway
        gateway.limiter.concurrency_leases._store = MemoryStore()

    async def write(
        self, asked: RequestRecord, kind: str, seq: int, value: bytes = b"", **members: Any
    ) -> None:
        reply = ReplyRecord(asked.id, members.pop("owner", "w"), kind, seq, value, **members)
        await send_reply(self.bus, reply, asked.reply_partition)
        await turns()

    async def begin(self, asked: RequestRecord) -> None:
        """The first part of a stream."""
        await self.write(asked, DATA, 0, b'data: {"n":1}\n\n', status=200, head=EVENTS)

    async def complete(self, asked: RequestRecord, seq: int = 1) -> None:
        await self.write(asked, FINAL, seq, DONE_EVENT, outcome=COMPLETED)

    async def fail(self, asked: RequestRecord, error: GatewayError) -> None:
        """Before the first token."""
        await self.write(
            asked,
            FINAL,
            0,
            error.encode_body(),
            outcome=FAILED,
            status=error.status,
            head=error.build_headers(),
            code=error.code,
        )

    async def claim(self, asked: RequestRecord, owner: str) -> None:
        await self.write(asked, CLAIM, 0, owner=owner)

    async def lies(self, ticket: Ticket) -> RequestRecord:
        """A request that another gateway has written."""
        asked = request(
            now=time.time(), id=ticket.id, reply_partition=ticket.reply_partition, tenant="t"
        )
        await send_request(self.bus, asked)
        return asked

    async def arrived(self, count: int) -> RequestRecord:
        """The newest request, once there are so many."""
        await until(lambda: len(self.requests) >= count)
        assert len(self.requests) == count
        return self.requests[-1]

    async def close(self) -> None:
        for gateway in self.gateways:
            await gateway.close()


@asynccontextmanager
async def house(**environment: str) -> AsyncIterator[House]:
    made = House(await started_bus(), NamedStore(), environment)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def keyed(gateway: Gateway, key: str = "k", *, grace: bool = True, **members: Any) -> "Client":
    """A client with an Idempotency-Key."""
    return Client(gateway.idempotency.open_request(key, submission(**members), has_grace=grace))


class Client:
    """One that asks and waits for its reply, in a task, until it is told to leave."""

    def __init__(self, opened: AbstractAsyncContextManager[PendingRequest]) -> None:
        self.call: PendingRequest | None = None
        self.got: list[ReplyRecord] = []
        self._opened = opened
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._opened as call:
            self.call = call
            while not (self.got and self.got[-1].outcome):
                part = await call.read_next_part(None)
                if part is not None:
                    self.got.append(part)

    async def waits(self) -> PendingRequest:
        """The call, once it is opened."""
        await until(lambda: self.call is not None or self.task.done())
        if self.call is None:
            await self.task
        assert self.call is not None
        return self.call

    @property
    def public_id(self) -> str:
        return self.call.public_id if self.call else ""

    async def leaves(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def reply(self) -> bytes:
        """Its whole text, at the end."""
        async with asyncio.timeout(300):
            await self.task
        return b"".join(part.value for part in self.got)

    @property
    def outcome(self) -> str:
        return self.got[-1].outcome if self.got else ""
