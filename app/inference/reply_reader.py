"""Reads any request's reply from the log as a call, from its beginning and on, live."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bus.base import Record
from app.errors import BusError, BusUnavailable, UndecodableRecord
from app.inference.dispatcher import Dispatcher
from app.inference.pending_request import PendingRequest
from app.protocol.reply_batch import decode_replies
from app.protocol.reply_state import RecordEffect
from app.reply_log.reply_feed import Follower, ReplyFollowers

# the gateway that took the request keeps its deadline; this is for when it is gone
_LEEWAY_SECONDS = 1.0


class ReplyReader:
    def __init__(self, reply_followers: ReplyFollowers, dispatcher: Dispatcher) -> None:
        self._reply_followers = reply_followers
        self._dispatcher = dispatcher
        self._follower_by_request: dict[PendingRequest, Follower] = {}

    @asynccontextmanager
    async def follow_reply(self, pending: PendingRequest) -> AsyncIterator[PendingRequest]:
        """The call, fed with what lies in the log, and from then on with what comes. Raises
        BusUnavailable.
        """
        pending.next_offset = pending.request.reply_offset
        await self.refill_from_log(pending)
        self._dispatcher.start_deadline_timer(
            pending, pending.request.deadline / 1000 + _LEEWAY_SECONDS - time.time()
        )
        try:
            yield pending
        finally:
            self.stop_following(pending)
            self._dispatcher.forget_request(pending)

    async def refill_from_log(self, pending: PendingRequest) -> None:
        """Feeds the call from where it stopped, until it has enough or the reply ends. Raises
        BusUnavailable.
        """
        self.stop_following(pending)
        pending.refill_from_log, pending.is_fed_from_log, pending.has_unfetched_records = (
            self.refill_from_log,
            True,
            False,
        )
        request, wanted_ids = pending.request, (pending.id.encode(),)

        def apply_log_record(record: Record) -> bool:
            try:
                effects = [
                    pending.apply_record(reply, record.offset)
                    for reply in decode_replies(record.headers, record.value, wanted_ids)
                ]
            except UndecodableRecord:
                return True
            return RecordEffect.ENDED not in effects and not pending.has_unfetched_records

        try:
            follower = await self._reply_followers.follow(
                request.reply_partition, pending.next_offset, request.id, apply_log_record
            )
        except BusError as error:
            raise BusUnavailable(
                f"the log cannot be read: {error}", retry_after_seconds=1
            ) from None
        self._follower_by_request[pending] = follower

    def pending_requests(self) -> list[PendingRequest]:
        return list(self._follower_by_request)

    def stop_following(self, pending: PendingRequest) -> None:
        """The call is read no further."""
        follower = self._follower_by_request.pop(pending, None)
        if follower is not None:
            self._reply_followers.leave(pending.request.reply_partition, follower)
