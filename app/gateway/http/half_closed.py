"""A client that has closed its sending side: it may still read, or it may be gone.

A FIN says only that the client sends no more (RFC 9293 section 3.6). `nc -N` and some scripts
half-close and wait for the reply; a client that has gone sends the same FIN. Only data tells them
apart: the system of a client that has gone answers it with a reset.
"""

import asyncio
import socket
import sys
from collections.abc import Callable

PROBE_DELAY_SECONDS = 0.25  # a reply that is done within it needs no probe
_RESET_WAIT_SECONDS = 0.1  # for the reset on a probe
_TCP_CLOSE = 7  # TCP_CLOSE of Linux's tcp_states.h, in the first byte of struct tcp_info
_INTERIM_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT_CHUNK = b"2\r\n:\n\r\n"  # a chunk with the comment line of an event stream

IS_SUPPORTED = sys.platform == "linux"


def make_probe(*, http_version: str, response_started: bool, is_chunked: bool) -> bytes | None:
    """Return bytes that a client which reads may get at this moment without harm; None if there are
    none.

    Before a response that is an interim one, which every HTTP/1.1 client has to skip (RFC 9110
    section 15.2). The only chunked responses of this server are event streams, whose chunks are
    whole events.
    """
    if not response_started:
        return _INTERIM_RESPONSE if http_version == "1.1" else None
    return _COMMENT_CHUNK if is_chunked else b""


class HalfCloseProber:
    """Probes the client of one connection. `get_probe` gives the bytes, `on_client_left` hears that
    the client has gone.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        get_probe: Callable[[], bytes | None],
        on_client_left: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._get_probe = get_probe
        self._on_client_left = on_client_left
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(PROBE_DELAY_SECONDS, self._send_probe)

    def cancel(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _send_probe(self) -> None:
        probe = self._get_probe()
        if probe is None:
            self._on_client_left()
        elif probe:
            self._transport.write(probe)
            self._timer = self._loop.call_later(_RESET_WAIT_SECONDS, self._check_for_reset)

    def _check_for_reset(self) -> None:
        if _is_reset(self._transport):
            self._on_client_left()


def _is_reset(transport: asyncio.Transport) -> bool:
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return True
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return True
