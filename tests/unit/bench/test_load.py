"""The load generator against servers that answer as a test wants, in the same event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from bench.load import Amount, measure
from bench.question import Question, question
from bench.tally import Tally
from bench.upstream import MODEL, Conversation, all_at_once, text_of, whole_reply

TOKENS = 5


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Scripted(asyncio.Protocol):
    """Answers every request with the next of these replies, in the given pieces; None: it hangs
    up.
    """

    def __init__(self, *replies: list[bytes] | None) -> None:
        self._replies = iter(replies)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reply = next(self._replies)
        if reply is None:
            self._transport.abort()
        else:
            asyncio.get_running_loop().create_task(self._send(reply))

    async def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._transport.write(piece)
            await asyncio.sleep(0)


def asked(url: str, *, stream: bool = True, tokens: int = TOKENS, **more: int) -> Question:
    return question(url, MODEL, stream=stream, max_tokens=tokens, more=more, text=text_of(tokens))


async def against(*replies: list[bytes] | None, stream: bool = True) -> Tally:
    """One connection's requests, one for each reply."""
    remaining = iter(replies)

    class OneByOne(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self._replies = remaining

    async with serving(OneByOne) as url:
        return await measure(
            asked(url, stream=stream), 1, Amount(requests=len(replies)), timeout=60
        )


STREAM = all_at_once(TOKENS, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_every_request_is_answered_and_counted(stream: bool) -> None:
    async with serving(lambda: Conversation(0, 0)) as url:
        row = (await measure(asked(url, stream=stream), 3, Amount(requests=10))).row("", "", 3)
    assert (row.requests, row.errors, row.tokens) == (10, {}, 10 * TOKENS if stream else 0)
    assert row.requests_per_s > 0
    assert (row.tokens_per_s > 0) == stream
    assert 0 < row.first_ms.p50 <= row.whole_ms.p50 <= row.whole_ms.p99


async def test_a_connection_is_used_again_for_the_next_request() -> None:
    made: list[Conversation] = []

    def conversation() -> Conversation:
        made.append(Conversation(0, 0))
        return made[-1]

    async with serving(conversation) as url:
        tally = await measure(asked(url), 2, Amount(requests=20))
    assert (tally.answered_requests, len(made)) == (20, 2)


async def test_paced_tokens_come_one_by_one_and_their_gaps_are_taken() -> None:
    async with serving(lambda: Conversation(0, 0)) as url:
        row = (await measure(asked(url, x_first=5, x_gap=5), 1, Amount(requests=2))).row("", "", 1)
    assert (row.requests, row.errors) == (2, {})
    assert 0 < row.gap_ms.p50 < row.whole_ms.p50


async def test_a_run_of_some_seconds_ends_by_itself() -> None:
    async with serving(lambda: Conversation(0, 0)) as url:
        tally = await measure(asked(url), 2, Amount(seconds=1.0, ramp=0.01))
    assert tally.answered_requests > 0
    assert not tally.errors


async def test_a_reply_may_be_cut_anywhere() -> None:
    cuts = [[STREAM[:place], STREAM[place:]] for place in range(1, len(STREAM))]
    tally = await against(*cuts)
    assert (tally.answered_requests, dict(tally.errors)) == (len(cuts), {})


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("status 503", b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}"),
        ("tokens missing or double", all_at_once(TOKENS - 1, False)),
        ("tokens missing or double", all_at_once(TOKENS + 1, False)),
        ("another text", STREAM.replace(b'" 1"', b'" 2"')),
        ("no [DONE]", STREAM.replace(b"[DONE]", b"[done]")),
        ("not a completion", STREAM.replace(b'{"id"', b'{id""')),
        ("error event", b'HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\ndata: {"error": "no"}\n'),
        ("protocol", b"what\r\n\r\n"),
    ],
)
async def test_a_wrong_reply_is_an_error_of_its_kind(kind: str, reply: bytes) -> None:
    tally = await against([reply])
    assert (dict(tally.errors), tally.answered_requests) == ({kind: 1}, 0)
    assert kind in tally.examples


async def test_tokens_are_counted_in_the_replies_that_are_not_parsed_too() -> None:
    tally = await against([STREAM], [all_at_once(TOKENS + 1, False)], [STREAM])
    assert (dict(tally.errors), tally.answered_requests) == ({"tokens missing or double": 1}, 2)


async def test_a_whole_reply_with_another_text_is_an_error() -> None:
    tally = await against([whole_reply(TOKENS).replace(b" 1", b" 2")], stream=False)
    assert dict(tally.errors) == {"another text": 1}


async def test_a_lost_connection_is_an_error_and_the_next_request_goes_on_another_one() -> None:
    tally = await against(None, [STREAM])
    assert (dict(tally.errors), tally.answered_requests) == ({"closed": 1}, 1)


async def test_a_reply_that_does_not_come_is_a_timeout() -> None:
    async with serving(lambda: Scripted([])) as url:
        tally = await measure(asked(url), 1, Amount(requests=1), timeout=0.05)
    assert dict(tally.errors) == {"timeout": 1}


async def test_a_server_that_is_not_there_is_an_error(refusing_port: int) -> None:
    tally = await measure(asked(f"http://127.0.0.1:{refusing_port}"), 1, Amount(requests=2))
    assert (dict(tally.errors), tally.answered_requests) == ({"no connection": 2}, 0)
