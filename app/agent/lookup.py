"""Looks up how far a request's reply has come, in the reply log. One pass over a partition serves all look-ups that wait."""

import asyncio
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.bus.base import Bus, Record
from app.bus.scan import scan
from app.contracts.envelope import Reply, Request, record_id
from app.contracts.fold import CLAIM, Fold, Step
from app.errors import BusError, UndecodableRecord


@dataclass(slots=True)
class Seen:
    """A reply as every reader sees it so far."""

    fold: Fold = field(default_factory=Fold)
    parts: list[Reply] = field(default_factory=list)
    deaths: int = 0  # as the last claim that counts has it
    progressed: bool = False  # something was written since that claim
    truncated: bool = False  # its first records may be gone from the log

    def add(self, reply: Reply) -> None:
        step = self.fold.apply(
            reply.kind, reply.owner, reply.seq, outcome=reply.outcome, supersedes=reply.supersedes, by_gateway=reply.by_gateway
        )
        if step is Step.CLAIMED:
            self.deaths, self.progressed = reply.deaths, False
        elif step is not Step.IGNORED:
            self.progressed = True
            self.parts.append(reply)

    @property
    def text(self) -> bytes:
        """All events that a client may have seen."""
        return b"".join(part.value for part in self.parts)


@dataclass(slots=True, eq=False)
class _Wanted:
    request: Request
    seen: Seen
    done: "Future[Seen]"


class ReplyLookup:
    """One pass at a time per reply partition; what is asked meanwhile waits for the next."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._waiting: dict[int, list[_Wanted]] = {}  # a partition is here while its task runs
        self._tasks: set[asyncio.Task[None]] = set()

    async def look(self, request: Request) -> Seen:
        """Everything that lies in the log when this is called is seen. Raises BusError."""
        wanted = _Wanted(request, Seen(), asyncio.get_running_loop().create_future())
        partition = request.reply_partition
        if partition in self._waiting:
            self._waiting[partition].append(wanted)
        else:
            self._waiting[partition] = [wanted]
            task = asyncio.create_task(self._passes(partition))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await wanted.done

    async def _passes(self, partition: int) -> None:
        while wanted := self._waiting[partition]:
            self._waiting[partition] = []
            try:
                await self._pass(partition, wanted)
            except BusError as error:
                for one in wanted:
                    if not one.done.done():
                        one.done.set_exception(error)
        del self._waiting[partition]

    async def _pass(self, partition: int, wanted: list[_Wanted]) -> None:
        by_id: dict[bytes, list[_Wanted]] = {}
        for one in wanted:
            by_id.setdefault(one.request.id.encode(), []).append(one)

        def on_records(records: Sequence[Record]) -> None:
            for record in records:
                for one in by_id.get(record_id(record.headers), ()):
                    one.seen.add(decoded(record))

        begin = min(one.request.reply_offset for one in wanted)
        low = await scan(self._bus, self._topic, partition, begin, on_records)
        for one in wanted:
            one.seen.truncated = low > one.request.reply_offset
            if not one.done.done():
                one.done.set_result(one.seen)


def decoded(record: Record) -> Reply:
    """The reply in a record; one that is not in our format counts as a claim that nobody can win: it is ignored."""
    try:
        return Reply.decode(record.headers, record.value)
    except UndecodableRecord:
        return Reply("", "", CLAIM, supersedes="?")
