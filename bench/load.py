"""The load generator: a closed loop of so many connections, each sending its next request when it
has its answer.
"""

import asyncio
import math
import ssl
from dataclasses import dataclass
from time import perf_counter

from bench.connection import Connection
from bench.question import Question
from bench.tally import Tally

_AFTER_NO_CONNECTION = 0.1  # seconds until the next try, so that a dead server is not hammered


@dataclass(frozen=True)
class Amount:
    """How much is asked: so many requests in all, or for so many seconds after the connections'
    start was spread over `ramp`.
    """

    requests: int = 0
    seconds: float = 10.0
    ramp: float = 0.0


class _Tickets:
    """Lets requests begin until the amount is reached; those that run by then are finished."""

    def __init__(self, requests: int, until: float) -> None:
        self._left = requests or math.inf
        self._until = until

    def take(self) -> bool:
        if self._left <= 0 or perf_counter() >= self._until:
            return False
        self._left -= 1
        return True


async def measure(
    question: Question, concurrency: int, amount: Amount, timeout: float = 120.0
) -> Tally:
    """Runs the load; `timeout` is the longest a request may take, in seconds."""
    start = perf_counter()
    end = math.inf if amount.requests else start + amount.ramp + amount.seconds
    tally = Tally(start + (0.0 if amount.requests else amount.ramp), end)
    tickets = _Tickets(amount.requests, end)
    open_now: set[Connection] = set()
    watch = asyncio.create_task(_time_out(open_now, timeout))
    delays = [amount.ramp * slot / concurrency for slot in range(concurrency)]
    await asyncio.gather(
        *(_keep_asking(question, tickets, tally, open_now, delay) for delay in delays)
    )
    watch.cancel()
    if amount.requests:
        tally.end = perf_counter()
    return tally


async def _keep_asking(
    question: Question, tickets: _Tickets, tally: Tally, open_now: set[Connection], delay: float
) -> None:
    """One slot: a connection, and another one whenever it is lost."""
    await asyncio.sleep(delay)
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context() if question.tls else None
    while tickets.take():
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(question, tickets, tally), question.host, question.port, ssl=tls
            )
        except OSError as error:
            tally.error("no connection", str(error))
            await asyncio.sleep(_AFTER_NO_CONNECTION)
            continue
        open_now.add(connection)
        await connection.closed
        open_now.discard(connection)


async def _time_out(open_now: set[Connection], timeout: float) -> None:
    while True:
        await asyncio.sleep(min(1.0, timeout))
        latest = perf_counter() - timeout
        for connection in list(open_now):
            if 0 < connection.sent < latest:
                connection.fail("timeout", f"no whole answer within {timeout:g} s")
