"""The few ASGI messages that the hot path reads and writes by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypedDict

from app.errors import BodyTooLarge, BodyTooSlow, ClientGone, GatewayError, UpgradeRefused
from app.gateway.http.content_coding import decompress_body

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Drain: TypeAlias = Callable[[], Awaitable[None]]
WriteChunk: TypeAlias = Callable[[bytes], bool]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

# our server's extension of ASGI: what else would cost a task, or a task's turn
CONNECTION_EXTENSION = "llm_gateway.connection"
BODY_TIMEOUT_SECONDS = 60.0  # for a whole request body


class ConnectionExtension(TypedDict):
    write: WriteChunk  # a part of a streamed body; false where `send` has to be awaited for it
    # whom to tell when the client closes its connection
    watch: Callable[[Callable[[], None] | None], None]
    drain: Drain  # waits until the client has taken most of what was written, or has gone


def get_header(scope: Scope, name: bytes) -> str:
    """A request header's value, the first of several, empty if it is not there. `name` is in lower
    case.
    """
    headers = scope.get("first_headers")
    if headers is None:
        headers = scope["first_headers"] = dict(reversed(scope["headers"]))
    value: bytes = headers.get(name, b"")
    return value.decode("latin-1")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the whole request body, unpacked.

    Raises BodyTooLarge as soon as it is known, BodyTooSlow, ClientGone, and what `unpack` raises. A
    server other than ours loses the body of a request that asks for an upgrade and takes it for the
    next one, so the connection is closed.
    """
    if get_header(scope, b"upgrade") and get_connection_extension(scope) is None:
        raise UpgradeRefused(
            "this server reads no body of a request that asks for an upgrade; send it without"
        )
    length = get_header(scope, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise _body_too_large_error(max_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            body = await _read_parts(receive, max_bytes)
    except TimeoutError:
        raise BodyTooSlow(
            f"the request body did not come within {BODY_TIMEOUT_SECONDS:g} s"
        ) from None
    content_coding = get_header(scope, b"content-encoding")
    return await decompress_body(body, content_coding, max_bytes) if content_coding else body


async def _read_parts(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > max_bytes:
            raise _body_too_large_error(max_bytes)
        if not message.get("more_body", False):
            return bytes(body + part) if body else part
        body += part


def get_connection_extension(scope: Scope) -> ConnectionExtension | None:
    """None where it is another server than ours."""
    connection_extension: ConnectionExtension | None = scope.get("extensions", {}).get(
        CONNECTION_EXTENSION
    )
    return connection_extension


def _body_too_large_error(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {max_bytes} bytes (MAX_BODY_BYTES)")


@contextmanager
def watch_disconnect(
    scope: Scope, receive: Receive, on_client_left: Callable[[], None]
) -> Iterator[None]:
    """`on_client_left` is called if the client closes its connection meanwhile. The request's body
    has been read.
    """
    connection_extension = get_connection_extension(scope)
    if connection_extension is not None:
        connection_extension["watch"](on_client_left)
        try:
            yield
        finally:
            connection_extension["watch"](None)
        return
    task = asyncio.create_task(_wait_for_disconnect(receive))
    task.add_done_callback(lambda _: on_client_left())
    try:
        yield
    finally:
        task.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def encode_header_pairs(pairs: Iterable[tuple[str, str]]) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


async def send_response(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    if status not in (204, 304):  # RFC 9110 section 8.6
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send,
    error: GatewayError,
    request_id: str,
    extra_headers: Iterable[tuple[str, str]] = (),
    *,
    body: bytes | None = None,
) -> None:
    """Send a whole response with OpenAI's error body, or with `body`.

    `request_id` is the request's, which OpenAI's SDK shows as `error.request_id`.
    """
    headers = encode_header_pairs(
        (*error.build_headers(), ("x-request-id", request_id), *extra_headers)
    )
    await send_response(send, error.status, headers, error.encode_body() if body is None else body)
