"""Sending to a topic that was made a moment ago."""

import asyncio
from asyncio import Future
from collections.abc import Iterable
from itertools import islice

from app.bus.base import Place


async def in_order(sends: "Iterable[Future[Place]]", partitions: int = 1) -> list[Place]:
    """The places of what a generator sends, one after the other; its first records go to as many
    partitions, one to each.

    Those are acknowledged before the rest is sent: together with others, the first in a new
    partition may come to nothing (docs/decisions/0011).
    """
    sends = iter(sends)
    first = [await future for future in islice(sends, partitions)]
    return first + await asyncio.gather(*sends)
