"""One connection to an upstream: HTTP/1.1, one request after the other, parsed by llhttp."""

import asyncio
import select
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from app.agent.engines.http.answer import HttpAnswer
from app.agent.engines.http.errors import (
    CUT_SHORT,
    NO_REPLY,
    Stale,
    TooLarge,
    Unreadable,
    UpstreamError,
    reason,
)

HEAD_BYTES = 64 * 1024  # of a reply's status line and headers

_HEAD_TOO_LARGE = f"its reply's head is larger than {HEAD_BYTES} bytes"

Outcome = HttpAnswer | UpstreamError


class Home(Protocol):
    """Where a connection is while it has nothing to do."""

    def put(self, connection: "Connection") -> None: ...

    def forget(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """It serves the request of `ask` until the answer's last byte, and is back in the pool before
    anybody hears of that.
    """

    def __init__(self, home: Home) -> None:
        self.quiet = 0  # looks of the pool since the last byte
        self.is_paused = False
        self._home = home
        self._waiter: asyncio.Future[Outcome] | None = None  # until the head is there
        self._answer: HttpAnswer | None = None  # from then until the body's end
        self._is_whole = False
        self._keep_alive = False
        self._used = False
        self._head_bytes = 0
        self._framing_bytes = 0  # since the last byte of the body
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []  # of the body, in what just came
        # the parser's callback, without a frame of ours per piece
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        # What many a plain server sends, and every client takes.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._parse = self._parser.feed_data

    @property
    def is_idle(self) -> bool:
        return self._waiter is None and self._answer is None

    def has_unread(self) -> bool:
        """Return whether the system has bytes for an idle connection: a reply too many, or the
        end.
        """
        return bool(self._unread.poll(0))

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    async def ask(self, *parts: bytes) -> HttpAnswer:
        """Sends a request; its reply once the head is there. Raises UpstreamError."""
        self.quiet = self._head_bytes = self._framing_bytes = 0
        if not self.is_open:
            raise self._nothing(NO_REPLY)
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.writelines(parts)
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        if isinstance(outcome, UpstreamError):
            raise outcome
        return cast(HttpAnswer, outcome)

    def _abandon(self, waiter: "asyncio.Future[Outcome]") -> None:
        """Its caller is gone. The head may have come meanwhile, and the connection be another
        request's already.
        """
        if self._waiter is waiter:
            self.abort()
        elif not waiter.cancelled() and isinstance(answer := waiter.result(), HttpAnswer):
            answer.abort()

    def pause(self) -> None:
        """Nothing more is read; how long the upstream is silent meanwhile does not count."""
        if not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Ends the upstream's work on the request, and the connection."""
        self._waiter = self._answer = None
        self._transport.abort()

    def fail(self, error: UpstreamError) -> None:
        """Ends the connection, and whoever waits for something from it hears of the error."""
        waiter, answer = self._waiter, self._answer
        self.abort()
        if answer is not None:
            answer.end(error)
        elif waiter is not None and not waiter.done():
            waiter.set_result(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._unread = select.poll()
        if (sock := transport.get_extra_info("socket")) is not None:
            self._unread.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self.quiet = 0
        if self._answer is None and not self._is_awaited(data):
            return
        fault: UpstreamError | None = None
        try:
            self._parse(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            fault = self._in_words(error)
        if not self._pieces and self._answer is not None and not self._is_whole:
            self._framing_bytes += len(data)  # of chunks and trailers
            if self._framing_bytes > HEAD_BYTES:
                fault = fault or TooLarge(
                    f"its reply has more than {HEAD_BYTES} bytes of chunk extensions or trailers"
                )
        if self._pieces and self._answer is not None:
            self._framing_bytes = 0
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            if self._answer.feed(body) and not self._is_whole:
                self.pause()
        if self._is_whole:
            self._finish(clean=fault is None)
        elif fault is not None:
            self.fail(fault)
        elif self._waiter is not None and self._head_bytes > HEAD_BYTES:
            self.fail(TooLarge(_HEAD_TOO_LARGE))

    def _is_awaited(self, data: bytes) -> bool:
        self._head_bytes += len(data)
        if self._waiter is None:
            self.abort()
        return self._waiter is not None

    def _in_words(self, error: Exception) -> UpstreamError:
        if isinstance(error.__context__, UpstreamError):  # of a callback
            return error.__context__
        return UpstreamError(CUT_SHORT if self._answer else f"its reply is not HTTP ({error})")

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise UpstreamError("it sent more than a reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:  # else it is a trailer's
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, []
        if status == 101:
            raise UpstreamError("it switched protocols, which nobody asked for")
        if 100 <= status < 200:  # the reply itself is still to come
            return
        if not 200 <= status <= 599:  # RFC 9110 section 15
            raise Unreadable(f"its reply has the status {status}, which is none of HTTP")
        if (
            self._head_bytes > HEAD_BYTES
            and sum(len(name) + len(value) for name, value in fields) > HEAD_BYTES
        ):
            raise TooLarge(_HEAD_TOO_LARGE)
        answer, waiter = HttpAnswer(self, status, fields), self._waiter
        if waiter is None or waiter.done():
            raise UpstreamError("nobody waits for it")
        self._answer, self._waiter = answer, None
        waiter.set_result(answer)

    def on_message_complete(self) -> None:
        if self._answer is not None:
            self._is_whole, self._keep_alive = True, self._parser.should_keep_alive()

    def _finish(self, *, clean: bool) -> None:
        """The body is whole. What the upstream answered before it had heard all of the request is
        no state to go on from.
        """
        answer, self._answer, self._is_whole = self._answer, None, False
        if answer is None:  # closed by its reader, in the middle of the last piece
            return
        self.resume()
        if (
            clean
            and self._keep_alive
            and self.is_open
            and not self._transport.get_write_buffer_size()
        ):
            self._used = True
            self._home.put(self)
        else:
            self._transport.close()
        answer.end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._home.forget(self)
        if self._answer is not None and exc is None and not self._answer.is_framed:
            self._answer.end(None)  # where nothing else says how long a body is, this does
        elif self._answer is not None:
            self.fail(UpstreamError(CUT_SHORT if exc is None else reason(exc)))
        elif self._waiter is not None:
            self.fail(self._nothing(NO_REPLY if exc is None else reason(exc)))
        del self._parser, self._parse  # each knows the other

    def _nothing(self, words: str) -> UpstreamError:
        return Stale(words) if self._used and not self._head_bytes else UpstreamError(words)
