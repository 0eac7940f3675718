"""What cannot be worked on goes to the dead-letter topic, with its origin, the reason and its own
bytes.
"""

import logging
from functools import partial

from app.bus.base import Bus
from app.errors import RecordTooLarge
from app.protocol.dead_letters import (
    ORIGIN_HEADER,
    ORIGINAL_SIZE_HEADER,
    REASON_HEADER,
    strip_marks,
)
from app.protocol.records import Headers
from app.reply_log.retry import until_done

logger = logging.getLogger("app.agent")


async def dead_letter(
    bus: Bus,
    topic: str,
    origin: tuple[str, int, int],
    headers: Headers,
    value: bytes | None,
    reason: str,
) -> None:
    """Write a dead letter, and return once the log has it. `origin`: topic, partition, offset.

    The record's own headers are kept, without marks of a dead letter. Where the topic takes no
    record of this size, it gets as much of the value's beginning as fits when halved again and
    again; if its headers alone are too large, none of them. Raises RecordTooLarge if the topic does
    not even take that.
    """
    where = f"{origin[0]}/{origin[1]}/{origin[2]}"
    said: Headers = [(ORIGIN_HEADER, where.encode()), (REASON_HEADER, reason.encode())]
    kept, own = value, strip_marks(headers)
    while True:
        send = partial(bus.send, topic, kept, key=where.encode(), headers=[*said, *own])
        try:
            await until_done(f"dead letter from {where}", send)
            return
        except RecordTooLarge as error:
            if not kept and not own:
                raise
            logger.warning("the dead letter from %s is cut: %s", where, error)
            said = [*said[:2], (ORIGINAL_SIZE_HEADER, str(len(value or b"")).encode())]
            kept, own = (kept[: len(kept) // 2], own) if kept else (kept, [])
