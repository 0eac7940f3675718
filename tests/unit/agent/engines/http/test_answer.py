"""The reader of a reply: it may rest, leave and fail at any moment, and no connection is left half
used.
"""

import asyncio
import gc

import pytest

from app.agent.engines.base import EngineBroken
from app.agent.engines.http.answer import MOST_KEPT
from tests.unit.agent.engines.wire import BODY, CHUNKED, OK, SIZED, Wire, relayed


async def test_reading_pauses_with_the_reader_and_goes_on_with_it() -> None:
    wire, done, found = Wire(), asyncio.get_running_loop().create_future(), list[bytes]()

    def take(piece: bytes) -> "asyncio.Future[None]":
        found.append(piece)
        return done

    relaying = await relayed(await wire.answered(CHUNKED), take)
    wire.comes(b"3\r\nabc\r\n")
    assert (wire.is_paused, found) == (True, [b"abc"])
    done.set_result(None)
    await asyncio.sleep(0.1)
    assert not wire.is_paused
    wire.comes(b"0\r\n\r\n")
    await relaying


async def test_what_nobody_takes_is_kept_up_to_a_bound_and_a_whole_body_without_one() -> None:
    wire, part = Wire(), bytes(MOST_KEPT // 2)
    answer = await wire.answered(OK + b"Content-Length: %d\r\n\r\n" % (5 * len(part)))
    wire.comes(part, part)
    assert not wire.is_paused
    wire.comes(part)
    assert wire.is_paused
    reading = asyncio.create_task(answer.read())
    await asyncio.sleep(0)
    wire.comes(part, part)
    assert len(await reading) == 5 * len(part)


async def test_a_request_cancelled_before_its_head_ends_the_connection() -> None:
    wire = Wire()
    task = await wire.asked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (wire.aborted, wire.idle) == (True, [])


async def test_a_request_cancelled_at_the_moment_its_head_comes_ends_the_connection() -> None:
    for cancelled_first in (True, False):
        wire = Wire()
        task = await wire.asked()
        if cancelled_first:
            task.cancel()
        wire.comes(CHUNKED)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (wire.aborted, wire.idle) == (True, [])


async def test_a_request_cancelled_when_its_connection_is_already_anothers_leaves_that_alone() -> (
    None
):
    wire = Wire()
    first = await wire.asked()
    wire.comes(SIZED + BODY)
    second = asyncio.create_task(wire.idle.pop().ask(b"second"))
    first.cancel()
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await first
    wire.comes(SIZED + BODY)
    assert await (await second).read() == BODY


@pytest.mark.parametrize("how", ["read", "relay", "relay in a pause"])
async def test_a_reader_cancelled_in_the_middle_ends_the_connection(how: str) -> None:
    wire = Wire()
    answer = await wire.answered(CHUNKED)
    never = asyncio.get_running_loop().create_future()
    pause = never if how == "relay in a pause" else None
    task = asyncio.create_task(answer.read() if how == "read" else answer.relay(lambda _: pause))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    wire.comes(b"3\r\nabc\r\n")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (wire.aborted, wire.idle) == (True, [])
    with pytest.raises(EngineBroken, match="the answer was closed"):
        await answer.read()


async def test_a_reader_cancelled_at_the_moment_it_asks_for_a_pause_does_not_begin_it(
    recwarn: pytest.WarningsRecorder,
) -> None:
    gc.collect()  # what earlier tests have left is not of this one
    recwarn.clear()
    wire, begun = Wire(), list[bytes]()

    async def pause(piece: bytes) -> None:
        begun.append(piece)

    relaying = await relayed(await wire.answered(CHUNKED), pause)
    wire.comes(b"3\r\nabc\r\n")
    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying
    gc.collect()
    assert (begun, wire.aborted, list(recwarn)) == ([], True, [])


async def test_a_reader_that_fails_ends_the_connection_and_fails_with_its_own_words() -> None:
    wire = Wire()

    def take(_piece: bytes) -> None:
        raise KeyError("mine")

    relaying = await relayed(await wire.answered(CHUNKED), take)
    wire.comes(b"3\r\nabc\r\n")
    with pytest.raises(KeyError, match="mine"):
        await relaying
    assert (wire.aborted, wire.idle) == (True, [])


async def test_a_reader_that_closes_the_answer_within_its_last_piece_ends_the_connection() -> None:
    wire = Wire()
    answer = await wire.answered(CHUNKED)
    relaying = await relayed(answer, lambda _: answer.abort())
    wire.comes(b"3\r\nabc\r\n0\r\n\r\n")
    with pytest.raises(EngineBroken, match="the answer was closed"):
        await relaying
    assert (wire.aborted, wire.idle) == (True, [])
