"""Compressed replies: whatever the coding and the cuts, in bounded pieces, and none that is cut
short.
"""

import asyncio
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.engines.http import answer as http_answer
from app.agent.engines.http.errors import UpstreamError
from app.agent.engines.http.unpack import MOST_RATIO, STEP_BYTES, WINDOW_BYTES, Unpacker
from app.errors import ReplyTooLarge
from tests.unit.agent.engines.wire import Wire

# Every byte of the steps is another's, so that the ratio is one that JSON has.
LARGE = gzip.compress(b"".join(b"%d," % number for number in range(2_000_000)))
BOMB = gzip.compress(bytes(200 * STEP_BYTES))


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


@given(
    data=st.one_of(st.binary(max_size=300), st.integers(0, 3 * STEP_BYTES).map(bytes)),
    coding=st.sampled_from(sorted(PACKERS)),
    is_raw=st.booleans(),
    members=st.integers(1, 2),
    step=st.integers(1, 40),
)
def test_what_was_packed_is_unpacked(
    data: bytes, coding: str, is_raw: bool, members: int, step: int
) -> None:
    packed = raw(data) if is_raw and coding == "deflate" else PACKERS[coding](data)
    unpacker, found = Unpacker(coding), list[bytes]()
    packed *= members
    for start in range(0, len(packed), step):
        found += unpacker.feed(packed[start : start + step])
    unpacker.end()
    assert b"".join(found) == data * members
    assert max(map(len, found), default=0) <= STEP_BYTES


def test_nothing_that_can_be_unpacked_is_held_back_wherever_the_bytes_are_cut() -> None:
    packed = gzip.compress(bytes(4 * STEP_BYTES))
    for cut in range(len(packed)):
        at_once = zlib.decompressobj(wbits=31).decompress(packed[:cut])
        assert b"".join(Unpacker("gzip").feed(packed[:cut])) == at_once


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(b"abc")[:-1]),
        ("gzip", gzip.compress(b"abc") * 2 + b"\x1f"),
        ("deflate", zlib.compress(b"abc")[:-1]),
        ("deflate", raw(b"abc" * 99)[:-1]),
    ],
    ids=["a gzip member", "the third of its members", "a zlib stream", "a raw one"],
)
def test_what_is_cut_short_is_not_taken_for_whole(coding: str, packed: bytes) -> None:
    unpacker = Unpacker(coding)
    list(unpacker.feed(packed))
    with pytest.raises(UpstreamError, match="cut short or is garbled"):
        unpacker.end()


def test_a_body_of_no_bytes_is_empty_whatever_its_coding() -> None:
    Unpacker("gzip").end()


async def packed(body: bytes) -> http_answer.HttpAnswer:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    return await Wire().answered(head + body)


async def test_bytes_that_unpack_to_many_are_handed_on_in_steps_that_the_reader_sets() -> None:
    sizes, pauses = list[int](), 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1

    def take(piece: bytes) -> object:
        sizes.append(len(piece))
        assert pauses == len(sizes) - 1, "the next piece is unpacked when the last one is done with"
        return pause()

    await (await packed(LARGE)).relay(take)  # type: ignore[arg-type]
    assert max(sizes) <= STEP_BYTES
    assert sum(sizes) == len(gzip.decompress(LARGE))


async def test_others_have_their_turn_while_a_reply_is_unpacked() -> None:
    """Another model's request in the same process goes on meanwhile: one turn at least for each 256
    KiB.
    """
    turns, size = 0, 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def take(piece: bytes) -> None:
        nonlocal size
        size += len(piece)

    counting = asyncio.create_task(count())
    await (await packed(LARGE)).relay(take)
    counting.cancel()
    assert turns >= size // (http_answer.TURN_BYTES + STEP_BYTES)


async def test_others_have_their_turn_while_nothing_comes_out_of_what_is_unpacked() -> None:
    """Each member of a gzip file costs time, an empty one too."""
    turns, members = 0, gzip.compress(b"") * 30_000

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await (await packed(members)).read() == b""
    counting.cancel()
    assert turns >= len(members) // (12 * WINDOW_BYTES)


async def test_a_reply_that_unpacks_to_too_many_times_its_bytes_is_refused_early() -> None:
    size = 0

    def take(piece: bytes) -> None:
        nonlocal size
        size += len(piece)

    with pytest.raises(ReplyTooLarge, match="unpacks to more than 200 times"):
        await (await packed(BOMB)).relay(take)
    assert size <= max(1024 * 1024, MOST_RATIO * len(BOMB)) + STEP_BYTES


async def test_a_reply_that_unpacks_to_more_than_the_limit_is_not_read_whole() -> None:
    with pytest.raises(ReplyTooLarge, match="MAX_REPLY_BYTES"):
        await (await packed(LARGE)).read(1_000_000)
