"""The few ASGI messages that the hot path reads and writes by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from app.errors import BodyTooLarge, BodyTooSlow, GatewayError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
WriteChunk: TypeAlias = Callable[[bytes], bool]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

WRITE_CHUNK = "llm_gateway.write_chunk"  # our server's extension of ASGI: a part of a streamed body, without a task's turn
BODY_SECONDS = 60.0  # for a whole request body


class ClientGone(Exception):
    """The client has closed its connection."""


def header(scope: Scope, name: bytes) -> str:
    """A request header's value, the first of several, empty if it is not there. `name` is in lower case."""
    headers = scope.get("first_headers")
    if headers is None:
        headers = scope["first_headers"] = dict(reversed(scope["headers"]))
    value: bytes = headers.get(name, b"")
    return value.decode("latin-1")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body. Raises BodyTooLarge as soon as it is known, BodyTooSlow, ClientGone."""
    length = header(scope, b"content-length")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_parts(receive, limit)
    except TimeoutError:
        raise BodyTooSlow(f"the request body did not come within {BODY_SECONDS:g} s") from None


async def _read_parts(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body + part) if body else part
        body += part


def write_chunk_of(scope: Scope) -> WriteChunk | None:
    """What the server offers for the parts of a streamed body; None where it is another server than ours."""
    write: WriteChunk | None = scope.get("extensions", {}).get(WRITE_CHUNK, {}).get("write")
    return write


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {limit} bytes (MAX_BODY_BYTES)")


async def until_gone(receive: Receive) -> None:
    """Returns when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def raw(pairs: Iterable[tuple[str, str]]) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


async def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: GatewayError, extra: Iterable[tuple[str, str]] = ()) -> None:
    """A whole response with OpenAI's error body."""
    await send_whole(send, error.status, raw((*error.head(), *extra)), error.body())
