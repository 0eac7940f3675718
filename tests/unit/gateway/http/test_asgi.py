"""Reading a request's body: its limit, a client that leaves, and one that stops sending."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import BodyTooLarge, BodyTooSlow, ClientGone
from app.gateway.http.asgi import BODY_TIMEOUT_SECONDS, Receive, read_body


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def client(*parts: dict[str, Any], gap: float = 0.0) -> Receive:
    """Sends these parts with `gap` seconds before each, and then nothing."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(gap)
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


async def read(
    receive: Receive, *, limit: int = 100, headers: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    return await read_body({"headers": list(headers)}, receive, limit)


async def test_a_body_in_one_part_and_one_in_many_are_the_same() -> None:
    assert await read(client(part(b"abc", more=False))) == b"abc"
    assert await read(client(part(b"a"), part(b""), part(b"b"), part(b"c", more=False))) == b"abc"
    assert await read(client(part(b"abc"), part(b"", more=False))) == b"abc"


async def test_a_body_of_just_the_limit_is_read_and_one_byte_more_is_refused() -> None:
    assert await read(client(part(b"x" * 100, more=False))) == b"x" * 100
    for parts in ([part(b"x" * 101, more=False)], [part(b"x" * 60), part(b"x" * 41)]):
        with pytest.raises(BodyTooLarge, match="100 bytes"):
            await read(client(*parts))


async def test_a_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(BodyTooLarge):
        await read(client(), headers=[(b"content-length", b"101")])


async def test_a_client_that_leaves_is_gone() -> None:
    with pytest.raises(ClientGone):
        await read(client(part(b"a"), {"type": "http.disconnect"}))


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_a_client_that_stops_sending_is_refused_after_a_while(sent: int) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(BodyTooSlow) as refused:
        await read(client(*[part(b"x")] * sent))
    assert loop.time() - begun == BODY_TIMEOUT_SECONDS
    assert ("connection", "close") in refused.value.build_headers()


async def test_a_client_that_sends_byte_by_byte_has_no_more_time_than_others() -> None:
    with pytest.raises(BodyTooSlow):
        await read(client(*[part(b"x")] * 100, gap=1.0))
