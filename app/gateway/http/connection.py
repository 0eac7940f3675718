"""A client's connection: uvicorn's own HTTP protocol, with limits on heads, slow senders and
connections.

    uvicorn app.main:application --http app.gateway.http.connection:Connection

The bare `uvicorn` command serves too, without these limits: its parser takes a head of any size,
however slowly it is sent, and answers what is no HTTP, or is beyond --limit-concurrency, with a
plain text.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.errors import BadRequest, ConnectionsFull, GatewayError, HeadersTooLarge
from app.gateway.http.asgi import (
    BODY_TIMEOUT_SECONDS,
    CONNECTION_EXTENSION,
    App,
    ConnectionExtension,
    encode_header_pairs,
)
from app.gateway.http.protocol import HttpProtocol, make_refusal_app
from app.gateway.http.write_stall import WriteStallTimer
from app.protocol.request_id import new_refused_id

# from a connection's first moment, or a later request's first byte, to the end of its head
HEAD_TIMEOUT_SECONDS = 30.0
MAX_HEAD_BYTES = 64 * 1024  # of request line and headers


class Connection(HttpProtocol):
    """Between two requests uvicorn's keep-alive timeout counts, within a body the application's
    own.

    A request that is answered before its body has come is read on, so that a client which first
    sends and then reads has its answer. Nobody reads what comes then, so nobody else counts its
    time.
    """

    stall_timeout_seconds: ClassVar[float] = 60.0  # CLIENT_STALL_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # for a head, or an answered request's body, that came in pieces
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._head_bytes = 0
        self._on_client_left: Callable[[], None] | None = None  # hears that the client has closed
        self._is_write_closed = False  # our side of it
        self._extensions: dict[str, Any] = {
            CONNECTION_EXTENSION: ConnectionExtension(
                write=self.write_chunk, watch=self.watch_disconnect, drain=self.drain
            )
        }
        # so that uvicorn's own refusal is never chosen
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request_transport = _RequestTransport(transport, self._close_after_response)
        self._write_stall_timer = WriteStallTimer(
            transport, self.stall_timeout_seconds, transport.abort
        )
        self._is_in_head = True
        self._start_timer(HEAD_TIMEOUT_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._write_stall_timer.stop()
        super().connection_lost(exc)
        if self._on_client_left is not None:
            self._on_client_left()
        # they hold this connection, which holds them; who comes now asks `receive`
        self._extensions.clear()
        self._request_transport.close = self.transport.close  # type: ignore[method-assign]  # the same

    def data_received(self, data: bytes) -> None:
        if self._is_write_closed:
            return
        if len(data) > MAX_HEAD_BYTES and self._is_head_too_large(data):
            self._refuse_large_head()
            return
        super().data_received(data)
        if self._is_in_head:
            self._start_timer(HEAD_TIMEOUT_SECONDS)
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_large_head()
        elif (
            self._is_response_complete() and self.timeout_keep_alive_task is None
        ):  # these bytes have ended it
            self._start_timer(
                BODY_TIMEOUT_SECONDS if self.cycle.more_body else HEAD_TIMEOUT_SECONDS
            )

    def _is_head_too_large(self, data: bytes) -> bool:
        """Of one read, which may be larger than a head may be: uvloop reads up to 256 KiB at
        once.
        """
        is_in_body = self.cycle is not None and self.cycle.more_body
        return not is_in_body and data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) < 0

    def _refuse_large_head(self) -> None:
        self._refuse_and_close(
            HeadersTooLarge(f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes")
        )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.scope["extensions"] = self._extensions
        super().on_headers_complete()
        if self.app is self._served_app and self.cycle is not None:
            self.cycle.transport = self._request_transport

    def _select_application(self) -> App:
        if self._is_full():
            return make_refusal_app(
                ConnectionsFull(
                    "this gateway has as many connections as it takes; try again shortly",
                    retry_after_seconds=1,
                )
            )
        return super()._select_application()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_stall_timer.start()

    def resume_writing(self) -> None:
        self._write_stall_timer.stop()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # not even a small reply was taken
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # the end of a body that nobody waits for; from here on it is as after any other
        if self._is_response_complete():
            self.cycle.more_body = False
            self._stop_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def write_chunk(self, data: bytes) -> bool:
        """Writes a part of the body that is being sent; false where ASGI's `send` has to be awaited
        for it.
        """
        cycle = self.cycle
        if (
            self.pipeline
            or self.flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written, or has gone."""
        await self.flow.drain()

    def watch_disconnect(self, on_client_left: Callable[[], None] | None) -> None:
        """`on_client_left` is called when the client closes its connection; None ends that."""
        self._on_client_left = on_client_left
        if on_client_left is not None:
            # a large body may have stopped it, and who does not read hears of no end
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse_and_close(BadRequest("The request is not HTTP that this server understands."))

    def _is_full(self) -> bool:
        """As uvicorn decides it, for each request; but who asks whether this process lives is told
        so.
        """
        if self._max_connections is None or self.url.startswith(b"/healthz"):
            return False
        return (
            len(self.connections) >= self._max_connections
            or len(self.tasks) >= self._max_connections
        )

    def _start_timer(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        # it sends its next request early, and slowly: the reply under way comes first
        if self._is_answering():
            self._start_timer(HEAD_TIMEOUT_SECONDS)
        else:
            self.transport.close()

    def _close_after_response(self) -> None:
        """After a request. To close over a body that still comes would reset the connection, and
        take the answer back.

        So only our side ends here, and what comes is dropped: until the client ends its own, or
        uvicorn's keep-alive timeout.
        """
        if self._is_response_complete() and self.cycle.more_body and self.transport.can_write_eof():
            self._is_write_closed = True
            self.transport.write_eof()
        else:
            self.transport.close()

    def _is_response_complete(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse_and_close(self, error: GatewayError) -> None:
        """The last that this connection hears. In the middle of a reply there is nothing to be said
        but its end.

        A request that waits for the reply before it has a place in `pipeline`, and is the cycle
        that was made last.
        """
        self._is_in_head = False
        self._stop_timer()
        if not self.pipeline and not (self._is_answering() and self.cycle.response_started):
            body = error.encode_body()
            closing_headers = (
                ("x-request-id", new_refused_id()),
                ("content-length", str(len(body))),
                ("connection", "close"),
            )
            head = encode_header_pairs([*error.build_headers(), *closing_headers])
            lines = b"".join(b"%s: %s\r\n" % pair for pair in head)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        self.transport.close()


class _RequestTransport(asyncio.Transport):
    """A connection as a request has it, which says by `close` that it is done with it."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self.write = transport.write  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.close = close  # type: ignore[method-assign]
