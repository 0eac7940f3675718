"""What cannot be worked on goes to the dead-letter topic, with its origin, the reason and its own bytes."""

import asyncio

from app.bus.base import Bus
from app.contracts.dead_letters import ORIGIN, REASON
from app.contracts.envelope import Headers
from app.errors import BusError

_RETRY_SECONDS = 0.2


async def dead_letter(
    bus: Bus, topic: str, origin: tuple[str, int, int], headers: Headers, value: bytes | None, reason: str
) -> None:
    """Returns once the log has it. `origin`: topic, partition, offset. The record's own headers are kept."""
    where = f"{origin[0]}/{origin[1]}/{origin[2]}"
    ours: Headers = [(ORIGIN, where.encode()), (REASON, reason.encode())]
    while True:
        try:
            await bus.send(topic, value, key=where.encode(), headers=[*ours, *headers])
            return
        except BusError:
            await asyncio.sleep(_RETRY_SECONDS)
