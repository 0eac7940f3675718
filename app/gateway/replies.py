"""Reads any request's reply from the log as a call, from its beginning and on, live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bus.base import Record
from app.contracts.envelope import Reply
from app.contracts.fold import Step
from app.errors import BusError, BusUnavailable, UndecodableRecord
from app.gateway.call import Call
from app.gateway.follow import Follower, ReplyFollowers


class ReplyReader:
    def __init__(self, followers: ReplyFollowers) -> None:
        self._followers = followers
        self._following: dict[Call, Follower] = {}

    @asynccontextmanager
    async def reading(self, call: Call) -> AsyncIterator[Call]:
        """The call, fed with what lies in the log, and from then on with what comes. Raises BusUnavailable."""
        call.next_offset = call.request.reply_offset
        await self.refill(call)
        try:
            yield call
        finally:
            self.release(call)

    async def refill(self, call: Call) -> None:
        """Feeds the call from where it stopped, until it has enough or the reply ends. Raises BusUnavailable."""
        self.release(call)
        call.refill, call.from_log, call.behind = self.refill, True, False
        request = call.request

        def feed(record: Record) -> bool:
            try:
                step = call.feed(Reply.decode(record.headers, record.value), record.offset)
            except UndecodableRecord:
                return True
            return step is not Step.ENDED and not call.behind

        try:
            follower = await self._followers.follow(request.reply_partition, call.next_offset, request.id, feed)
        except BusError as error:
            raise BusUnavailable(f"the log cannot be read: {error}", retry_after=1) from None
        self._following[call] = follower

    def release(self, call: Call) -> None:
        """The call is read no further."""
        follower = self._following.pop(call, None)
        if follower is not None:
            self._followers.leave(call.request.reply_partition, follower)
