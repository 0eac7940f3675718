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
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    tasks: set[asyncio.Task[None]] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    async def drain_then_pass_on(number: int) -> None:
        await drain()
        pass_on(number, None)

    def begin(number: int) -> None:
        tasks.add(asyncio.create_task(drain_then_pass_on(number)))

    def on_signal(number: int, frame: FrameType | None) -> None:
        if tasks:
            pass_on(number, frame)
            pass_on(signal.SIGINT, frame)  # uvicorn ends at once only on a SIGINT that comes second
        else:
            loop.call_soon_threadsafe(begin, number)

    for number in _SIGNALS:
        signal.signal(number, on_signal)
