"""A client that has closed its sending side: it may still read, or it may be gone.

A FIN says only that the client sends no more (RFC 9293 section 3.6). `nc -N` and some scripts
half-close and wait for the reply; a client that has gone sends the same FIN. Only data tells them
apart: the system of a client that has gone answers it with a reset.
"""

import asyncio
import socket
import sys
from collections.abc import Callable

GRACE_SECONDS = 0.25  # a reply that is done within it needs no probe
_ANSWER_SECONDS = 0.1  # for the reset on a probe
_CLOSED = 7  # TCP_CLOSE of Linux's tcp_states.h, in the first byte of struct tcp_info
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT = b"2\r\n:\n\r\n"  # a chunk with the comment line of an event stream

IS_SUPPORTED = sys.platform == "linux"


def probe_of(*, http_version: str, response_started: bool, is_chunked: bool) -> bytes | None:
    """Return bytes that a client which reads may get at this moment without harm; None if there are
    none.

    Before a response that is an interim one, which every HTTP/1.1 client has to skip (RFC 9110
    section 15.2). The only chunked responses of this server are event streams, whose chunks are
    whole events.
    """
    if not response_started:
        return _INTERIM if http_version == "1.1" else None
    return _COMMENT if is_chunked else b""


class HalfClosed:
    """Probes the client of one connection. `probe` gives the bytes, `gone` hears that the client
    has gone.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        probe: Callable[[], bytes | None],
        gone: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._probe = probe
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(GRACE_SECONDS, self._send_probe)

    def cancel(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _send_probe(self) -> None:
        probe = self._probe()
        if probe is None:
            self._gone()
        elif probe:
            self._transport.write(probe)
            self._timer = self._loop.call_later(_ANSWER_SECONDS, self._look)

    def _look(self) -> None:
        if _is_reset(self._transport):
            self._gone()


def _is_reset(transport: asyncio.Transport) -> bool:
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None or transport.is_closing():
        return True
    try:
        return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED
    except OSError:
        return True
