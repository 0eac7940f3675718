"""Takes over what another worker may have begun: waits while that one is at work, claims it, reads
what it left.

The order matters: write the claim, wait for its offset, read the reply log up to it, see whether
the claim counted, and only then go on from exactly what was found. The log decides between two that
claim at once.
"""

import logging
from functools import partial

from app.agent.consume.dead_letters import dead_letter
from app.agent.reply.job_context import JobContext
from app.bus.base import Place
from app.cluster.peers import Peers
from app.errors import BusFull, DeadLettered
from app.openai_api.endpoints import find_endpoint
from app.protocol.records import ControlRecord, Headers, ReplyRecord, RequestRecord
from app.protocol.reply_state import CLAIM, FAILED
from app.protocol.reply_view import ReplyView
from app.reply_log.retry import until_done, until_seen
from app.telemetry.metrics import DEAD_LETTERS, TAKEOVERS

logger = logging.getLogger("app.agent.consume.takeover")

SUSPECT_DEATHS = 2  # from here on it runs alone
POISON_DEATHS = 3
POISON_DEATHS_AMONG_OTHERS = 10  # while workers die that did not run it


class Takeover:
    def __init__(self, context: JobContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers

    async def wait(self, request: RequestRecord, group: str, partition: int) -> ReplyView | None:
        """Returns the reply so far once nobody else is at work on it; None if it has ended."""
        while True:
            while self._peers.runs(request.id) or self._peers.holds(group, partition):
                await self._peers.change()
            seen = await until_seen(self._context.tails.look, request)
            if seen.state.outcome:
                return None
            if not self._peers.runs(request.id):
                return seen

    def deaths(self, request: RequestRecord, seen: ReplyView) -> int:
        """Workers in a row that died with this request and wrote nothing; handing back and draining
        do not count.
        """
        if seen.has_progressed:
            return 0
        unnamed = max(0, seen.deaths - len(seen.dead))
        if not seen.state.attempts:
            unnamed += self._peers.died_with(request.id)
        return unnamed + len(self._dead(seen))

    def _dead(self, seen: ReplyView) -> tuple[str, ...]:
        """Those of them that claims name. One that was only silent (stopped, cut off) and is heard
        again has not died.
        """
        named = () if seen.has_progressed else (*seen.dead, *filter(None, (seen.state.writer,)))
        return tuple(
            worker
            for worker in named
            if worker != self._context.owner and not self._peers.lives(worker)
        )

    def is_poison(self, request: RequestRecord, deaths: int) -> bool:
        """So many deaths in a row are its own doing, unless workers die without it too: then many
        more are asked for.
        """
        return deaths >= (
            POISON_DEATHS_AMONG_OTHERS if self._peers.died_without(request.id) else POISON_DEATHS
        )

    async def claim(self, request: RequestRecord, seen: ReplyView, deaths: int) -> ReplyView | None:
        """Makes this worker the writer. Returns the reply up to the claim, or None if another was
        first, or it has ended.
        """
        owner = self._context.owner
        superseded = seen.state.writer
        claim = ReplyRecord(
            request.id, owner, CLAIM, supersedes=superseded, deaths=deaths, dead=self._dead(seen)
        )
        place = await self._send(request, claim)
        self._signal(ControlRecord(request.id, ControlRecord.CLAIM, owner, superseded))
        found = await until_seen(self._context.tails.look_past, request, place.offset)
        if found.state.outcome or found.state.writer != owner:
            return None
        # of a reply that is written whole, who died with it had written nothing
        if superseded or deaths:
            TAKEOVERS.labels(self._context.entry.id).inc()
        logger.info(
            "took over from %s",
            superseded or "nobody",
            extra={"request_id": request.id, "attempt": found.state.attempts},
        )
        return found

    async def hand_back(self, request: RequestRecord) -> None:
        """Says that this worker lets go: whoever comes next does not count it as a death."""
        await self._send(
            request, ReplyRecord(request.id, "", CLAIM, supersedes=self._context.owner)
        )

    async def verify(self, request: RequestRecord) -> bool:
        """Whether this worker is the writer, or nobody is yet."""
        return (await until_seen(self._context.lookup.look, request)).state.writer in (
            "",
            self._context.owner,
        )

    async def bury(
        self,
        request: RequestRecord,
        seen: ReplyView,
        origin: tuple[str, int, int],
        headers: Headers,
    ) -> None:
        """The record has ended one worker after another: to the dead letters, and an error for its
        caller.
        """
        where = f"{origin[0]}[{origin[1]}]@{origin[2]}"
        reason = f"{seen.deaths} workers in a row died while they ran it"
        await dead_letter(
            self._context.bus, self._context.topics.dlq, origin, headers, request.body, reason
        )
        DEAD_LETTERS.labels(self._context.entry.id).inc()
        logger.error("dead letter from %s", where, extra={"request_id": request.id})
        error = DeadLettered(
            "this request ended every worker that ran it; it lies in the dead letters"
        )
        writer = self._context.writer(request, seq=seen.state.next_seq)
        endpoint = find_endpoint(request.path)
        value = endpoint.encode_error_body(error)
        if request.stream and seen.parts:
            value = endpoint.encode_error_event(value)
        else:
            writer.start(error.status, error.build_headers())
        await writer.finish(FAILED, value, code=error.code or "")

    async def _send(self, request: RequestRecord, reply: ReplyRecord) -> Place:
        context = self._context
        send = partial(
            context.bus.send,
            context.topics.replies,
            reply.value,
            key=request.id.encode(),
            headers=reply.encode_headers(),
            partition=request.reply_partition,
        )
        return await until_done("claim", send, id_=request.id)

    def _signal(self, control: ControlRecord) -> None:
        try:
            future = self._context.bus.send(
                self._context.topics.control,
                b"",
                key=control.id.encode(),
                headers=control.encode_headers(),
            )
            future.add_done_callback(lambda done: done.exception())
        except BusFull:
            return  # it is only a help: the log decides
