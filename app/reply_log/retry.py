"""What must be done before work goes on is tried until the log does it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from app.errors import BusError, RecordTooLarge
from app.protocol.records import RequestRecord
from app.protocol.reply_view import ReplyView
from app.telemetry.logs import Throttle

logger = logging.getLogger("app.reply_log.retry")
logger.addFilter(Throttle())

_Result = TypeVar("_Result")


async def until_done(
    what: str, step: Callable[[], Awaitable[_Result]], *, pause: float = 0.2, id_: str = ""
) -> _Result:
    """What `step` gives, tried again `pause` seconds after each BusError. Raises RecordTooLarge:
    that would never pass.

    `what` and `id_` (a request's) name it in the log, which has one line a second at most for each
    `what`.
    """
    extra = {"request_id": id_} if id_ else None
    while True:
        try:
            return await step()
        except RecordTooLarge:
            raise
        except BusError as error:
            logger.warning("%s: not done yet: %s", what, error, extra=extra)
            await asyncio.sleep(pause)


async def until_seen(
    look: Callable[..., Awaitable[ReplyView]], request: RequestRecord, *more: int
) -> ReplyView:
    """A look-up of the request's reply."""
    return await until_done("look-up of a reply", partial(look, request, *more), id_=request.id)
