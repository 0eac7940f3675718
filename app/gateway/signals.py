"""SIGTERM and SIGINT: the first one drains, the second ends at once. Chained before whatever
handlers there were.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def drain_on_signal(drain: Callable[[], Awaitable[None]]) -> None:
    """Runs `drain` at the first signal, then lets the earlier handlers (uvicorn's) have it.

    Under the plain `uvicorn` command the server has installed its own handlers before the
    application starts.
    """
    loop = asyncio.get_running_loop()
    previous_handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    tasks: set[asyncio.Task[None]] = set()

    def call_previous_handler(number: int, frame: FrameType | None) -> None:
        handler = previous_handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    async def drain_then_call_previous_handler(number: int) -> None:
        await drain()
        call_previous_handler(number, None)

    def start_drain(number: int) -> None:
        tasks.add(asyncio.create_task(drain_then_call_previous_handler(number)))

    def on_signal(number: int, frame: FrameType | None) -> None:
        if tasks:
            call_previous_handler(number, frame)
            # uvicorn ends at once only on a SIGINT that comes second
            call_previous_handler(signal.SIGINT, frame)
        else:
            loop.call_soon_threadsafe(start_drain, number)

    for number in _SIGNALS:
        signal.signal(number, on_signal)
