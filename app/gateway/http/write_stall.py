"""Closes the connection of a client that does not read: what it does not take would stay in memory
for ever.
"""

import asyncio
from collections.abc import Callable


class WriteStall:
    """Watches the write buffer of one connection from the moment that it is full."""

    def __init__(
        self, transport: asyncio.Transport, seconds: float, stalled: Callable[[], None]
    ) -> None:
        """`stalled` is called once the buffer has not moved for `seconds`."""
        self._transport = transport
        self._seconds = seconds
        self._stalled = stalled
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The buffer is full."""
        self._size = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def stop(self) -> None:
        """The buffer has room again, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() >= self._size:
            self._stalled()
        else:
            self.start()
