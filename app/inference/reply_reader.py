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
    def __init__(self, followers: ReplyFollowers, dispatcher: Dispatcher) -> None:
        self._followers = followers
        self._dispatcher = dispatcher
        self._following: dict[PendingRequest, Follower] = {}

    @asynccontextmanager
    async def reading(self, call: PendingRequest) -> AsyncIterator[PendingRequest]:
        """The call, fed with what lies in the log, and from then on with what comes. Raises
        BusUnavailable.
        """
        call.next_offset = call.request.reply_offset
        await self.refill(call)
        self._dispatcher.watch(call, call.request.deadline / 1000 + _LEEWAY_SECONDS - time.time())
        try:
            yield call
        finally:
            self.release(call)
            self._dispatcher.forget(call)

    async def refill(self, call: PendingRequest) -> None:
        """Feeds the call from where it stopped, until it has enough or the reply ends. Raises
        BusUnavailable.
        """
        self.release(call)
        call.refill, call.from_log, call.behind = self.refill, True, False
        request, wanted = call.request, (call.id.encode(),)

        def feed(record: Record) -> bool:
            try:
                steps = [
                    call.feed(reply, record.offset)
                    for reply in decode_replies(record.headers, record.value, wanted)
                ]
            except UndecodableRecord:
                return True
            return RecordEffect.ENDED not in steps and not call.behind

        try:
            follower = await self._followers.follow(
                request.reply_partition, call.next_offset, request.id, feed
            )
        except BusError as error:
            raise BusUnavailable(
                f"the log cannot be read: {error}", retry_after_seconds=1
            ) from None
        self._following[call] = follower

    def calls(self) -> list[PendingRequest]:
        return list(self._following)

    def release(self, call: PendingRequest) -> None:
        """The call is read no further."""
        follower = self._following.pop(call, None)
        if follower is not None:
            self._followers.leave(call.request.reply_partition, follower)
