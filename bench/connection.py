"""One keep-alive connection of the load generator: it asks, takes the answer's times, and asks
again.

A bare protocol with the C parser that uvicorn has, and no object per event: what this costs, the
server under test cannot have.
"""

import asyncio
from time import perf_counter
from typing import Protocol, cast

import httptools

from bench.question import Question
from bench.sse import EventCounter, Reply, parse_stream, parse_whole
from bench.tally import Tally


class Tickets(Protocol):
    """Who says whether one more request is to be sent."""

    def take(self) -> bool: ...


class Connection(asyncio.Protocol):
    """Made with a ticket in hand. `closed` is done once the connection is gone."""

    def __init__(self, question: Question, tickets: Tickets, tally: Tally) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = 0.0  # when the request that runs was sent; 0 between requests
        self._question = question
        self._tickets = tickets
        self._tally = tally
        # Events of a reply beyond its tokens (role, finish, [DONE], usage): every reply's are
        # alike, so one is parsed.
        self._extra: int | None = None
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # called by the parser, without a frame of Python's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.sent:
            self._count_error("closed", str(exc or "the server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(None)

    def fail(self, kind: str, detail: str = "") -> None:
        """Counts the request that runs as failed, and ends the connection with it."""
        self._count_error(kind, detail)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            return self.fail("protocol", f"{error}: {data[:200]!r}")
        if self._parts:
            body = b"".join(self._parts)
            self._parts.clear()
            self._take(body, now)
        if self._complete:
            self._finish(now)

    def on_message_complete(self) -> None:
        self._complete = True
        self._stays = self._parser.should_keep_alive()  # the parser knows it only now

    def _ask(self) -> None:
        self._complete = False
        self._events = EventCounter()
        self._kept: list[bytes] = []
        self._last_piece = b""
        self._first = 0.0
        self._last = 0.0
        self._at_once = 0  # events that came together with the one before
        self.sent = perf_counter()
        self._transport.write(self._question.request)

    def _take(self, body: bytes, now: float) -> None:
        self._last_piece = body
        if self._extra is None:
            self._kept.append(body)
        begun = self._events.feed(body) if self._question.stream else 1
        if not begun:
            return
        if not self._first:
            self._first = now
        elif self._question.stream:
            self._tally.gap(now - self._last)
        self._last = now
        self._at_once += begun - 1
        if self._question.stream:
            self._tally.arrived(begun, now)

    def _finish(self, now: float) -> None:
        fault = self._fault()
        if fault:
            self._count_error(fault, repr(self._last_piece[-300:]))
        else:
            tokens = self._events.events - (self._extra or 0)
            self._tally.answered(
                self._first - self.sent, now - self.sent, now, tokens, self._events.events
            )
            self._tally.gaps_of_nothing += max(0, self._at_once - (self._extra or 0))
        self.sent = 0.0
        if self._stays and self._tickets.take():
            self._ask()
        else:
            self._transport.close()

    def _fault(self) -> str:
        """What is wrong with the reply that has just ended; empty if nothing is."""
        status = self._parser.get_status_code()
        if not 200 <= status < 300:
            return f"status {status}"
        if self._question.stream and b'{"error"' in self._last_piece:
            return "error event"
        if self._question.stream and not self._events.done:
            return "no [DONE]"
        if self._extra is None:
            try:
                reply = (parse_stream if self._question.stream else parse_whole)(
                    b"".join(self._kept)
                )
            except ValueError:
                return "not a completion"
            self._extra = reply.events - reply.tokens if self._question.stream else 0
            return self._unlike(reply)
        wanted = self._question.tokens
        if (
            self._question.stream
            and wanted is not None
            and self._events.events - self._extra != wanted
        ):
            return "tokens missing or double"
        return ""

    def _unlike(self, reply: Reply) -> str:
        question = self._question
        if question.tokens is not None and reply.tokens != question.tokens:
            return "tokens missing or double"
        return "another text" if question.text is not None and reply.text != question.text else ""

    def _count_error(self, kind: str, detail: str) -> None:
        self.sent = 0.0
        self._tally.error(kind, detail)
