"""Closes the connection of a client that does not read: what it does not take would stay in memory
for ever.
"""

import asyncio
from collections.abc import Callable


class WriteStallTimer:
    """Watches the write buffer of one connection from the moment that it is full."""

    def __init__(
        self, transport: asyncio.Transport, timeout_seconds: float, on_stalled: Callable[[], None]
    ) -> None:
        """`on_stalled` is called once the buffer has not moved for `timeout_seconds`."""
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._on_stalled = on_stalled
        self._buffer_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The buffer is full."""
        self._buffer_bytes = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(
            self._timeout_seconds, self._check_progress
        )

    def stop(self) -> None:
        """The buffer has room again, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_progress(self) -> None:
        if self._transport.get_write_buffer_size() >= self._buffer_bytes:
            self._on_stalled()
        else:
            self.start()
