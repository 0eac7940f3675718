"""Reads any request's reply from the log as a call, from its beginning and on, live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bus.base import Record
from app.contracts.envelope import Reply
from app.contracts.fold import Step
from app.errors import BusError, BusUnavailable, UndecodableRecord
from app.gateway.call import Call
from app.gateway.follow import ReplyFollowers


class ReplyReader:
    def __init__(self, followers: ReplyFollowers) -> None:
        self._followers = followers

    @asynccontextmanager
    async def reading(self, call: Call) -> AsyncIterator[Call]:
        """The call, fed with what lies in the log, and from then on with what comes. Raises BusUnavailable."""
        request = call.request

        def feed(record: Record) -> bool:
            try:
                return call.feed(Reply.decode(record.headers, record.value)) is not Step.ENDED
            except UndecodableRecord:
                return True

        try:
            follower = await self._followers.follow(request.reply_partition, request.reply_offset, request.id, feed)
        except BusError as error:
            raise BusUnavailable(f"the log cannot be read: {error}", retry_after=1) from None
        try:
            yield call
        finally:
            self._followers.leave(request.reply_partition, follower)
