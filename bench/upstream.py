"""A simulated upstream with numbered tokens that costs next to nothing, in a process of its own:

    python -m bench.upstream --port 9601 --first 50 --gap 20

It answers POST .../completions (chat or not; whole or streamed, `max_tokens` tokens) and GET
.../models. Times are in milliseconds; the members `x_first` and `x_gap` of a request's body take
their place. Tokens go out one by one on a fixed schedule; without a gap the whole reply is one
write, which is the most that a server can offer.
"""

import argparse
import asyncio
import sys
from functools import cache
from typing import Any, cast

import httptools
import orjson
import uvloop

MODEL = "sim"
_TOKENS = 64  # where a request does not say
# seconds; the loop counts in whole milliseconds, and waiting for less than one is spinning
_EARLY = 0.0005
_BASE = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": MODEL}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: "
    b"no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
)


def text_of(tokens: int) -> str:
    """What a reply of so many tokens says."""
    return "".join(f" {number}" for number in range(tokens))


@cache
def whole_reply(tokens: int) -> bytes:
    """With its HTTP head."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text_of(tokens)},
        "finish_reason": "length",
    }
    return _json_reply(
        {**_BASE, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)}
    )


@cache
def pieces(tokens: int, usage: bool) -> list[bytes]:
    """The body of a stream, HTTP chunks and all: role and first token, the other tokens one by one,
    what ends it.
    """
    events = [_chunk_of({"content": f" {number}"}) for number in range(tokens)]
    end = [_chunk_of({}, "length")]
    if usage:
        end.append(
            _chunk(
                {**_BASE, "object": "chat.completion.chunk", "choices": [], "usage": _usage(tokens)}
            )
        )
    end.append(_http_chunk(b"data: [DONE]\n\n"))
    events[0] = _chunk_of({"role": "assistant", "content": ""}) + events[0]
    events[-1] += b"".join(end) + b"0\r\n\r\n"
    return events


@cache
def all_at_once(tokens: int, usage: bool) -> bytes:
    """A whole stream with its head."""
    return _STREAM_HEAD + b"".join(pieces(tokens, usage))


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}


def _chunk_of(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _chunk({**_BASE, "object": "chat.completion.chunk", "choices": [choice]})


def _chunk(document: dict[str, Any]) -> bytes:
    return _http_chunk(b"data: " + orjson.dumps(document) + b"\n\n")


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json_reply(document: Any) -> bytes:
    body = orjson.dumps(document)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


_MODELS = _json_reply(
    {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}],
    }
)


class Conversation(asyncio.Protocol):
    """One client's connection. `first` and `gap` in seconds."""

    def __init__(self, first: float, gap: float) -> None:
        self._first = first
        self._gap = gap
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._url = b""
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        url, body = self._url, b"".join(self._body)
        self._url = b""
        self._body.clear()
        if url.endswith(b"/completions"):
            self._generate(orjson.loads(body))
        else:
            self._transport.write(_MODELS if url.endswith((b"/models", b"/health")) else _NOT_FOUND)

    def _generate(self, asked: dict[str, Any]) -> None:
        tokens = asked.get("max_tokens") or asked.get("max_completion_tokens") or _TOKENS
        first = asked.get("x_first", self._first * 1000) / 1000
        gap = asked.get("x_gap", self._gap * 1000) / 1000
        if not asked.get("stream"):
            self._later(first + gap * (tokens - 1), whole_reply(tokens))
            return
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        if gap:
            self._transport.write(_STREAM_HEAD)
            self._stream(pieces(tokens, usage), 0, self._loop.time() + first, gap)
        else:
            self._later(first, all_at_once(tokens, usage))

    def _later(self, delay: float, reply: bytes) -> None:
        if delay:
            self._timer = self._loop.call_later(delay, self._transport.write, reply)
        else:
            self._transport.write(reply)

    def _stream(self, events: list[bytes], number: int, due: float, gap: float) -> None:
        """Waits for the moment of each piece; the schedule is fixed, so that being late once is not
        being late for good.
        """
        while due - _EARLY <= self._loop.time():
            self._transport.write(events[number])
            number += 1
            due += gap
            if number == len(events):
                return
        self._timer = self._loop.call_at(due, self._stream, events, number, due, gap)


async def serve(port: int, first: float, gap: float) -> None:
    """On 127.0.0.1, until it is ended."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Conversation(first, gap), "127.0.0.1", port, backlog=4096, reuse_address=True
    )
    await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.upstream", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--first", type=float, default=0, help="milliseconds to the first token (%(default)s)"
    )
    parser.add_argument(
        "--gap", type=float, default=0, help="milliseconds between tokens (%(default)s)"
    )
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.first / 1000, options.gap / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
