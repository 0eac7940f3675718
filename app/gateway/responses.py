"""Writes a call's reply to its client: whole, or as server-sent events."""

from app.contracts.envelope import Reply
from app.gateway.asgi import RawHeaders, Send, raw, send_whole
from app.gateway.call import Call
from app.settings import GatewaySettings

KEEPALIVE = b": keep-alive\n\n"

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx: pass each event on at once
]


async def send_reply(call: Call, send: Send) -> Reply:
    """The whole reply as one body. Returns its last record."""
    parts = await call.whole()
    body = parts[0].value if len(parts) == 1 else b"".join(part.value for part in parts)
    headers = _headers(call, parts[0])
    timing = _server_timing(parts[-1])
    if timing:
        headers.append((b"server-timing", timing))
    await send_whole(send, parts[0].status or 500, headers, body)
    return parts[-1]


class EventStream:
    """A reply as server-sent events. The first record decides the status, unless it takes too long."""

    def __init__(self, call: Call, send: Send, settings: GatewaySettings) -> None:
        self._call = call
        self._send = send
        self._settings = settings
        self.status = 0  # 0 until the head is sent

    async def run(self) -> Reply:
        """Returns the reply's last record."""
        first = await self._call.next(self._settings.sse_head_after or None)
        if first is None:
            await self._start_stream(200, _EVENT_STREAM)
        elif first.outcome and not _is_events(first):
            await send_whole(self._send, first.status or 500, _headers(self._call, first), first.value)
            self.status = first.status
            return first
        else:
            await self._start_stream(first.status or 200, [*_EVENT_STREAM, *_others(first)])
            await self._write(first)
        return await self._rest(first)

    async def _rest(self, part: Reply | None) -> Reply:
        while part is None or not part.outcome:
            part = await self._call.next(self._settings.sse_keepalive or None)
            if part is None:
                await self._body(KEEPALIVE)
            else:
                await self._write(part)
        await self._send({"type": "http.response.body", "body": b""})
        return part

    async def _start_stream(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        request_id = (b"x-request-id", self._call.public_id.encode())
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, request_id]})

    async def _write(self, part: Reply) -> None:
        if part.status >= 400:  # the head is gone already, so the error is an event
            await self._body(b"data: " + part.value.replace(b"\n", b"\ndata: ") + b"\n\n")
        elif part.value:
            await self._body(part.value)

    async def _body(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def _is_events(part: Reply) -> bool:
    return any(name == "content-type" and value.startswith("text/event-stream") for name, value in part.head)


def _headers(call: Call, part: Reply) -> RawHeaders:
    return [*raw(part.head), (b"x-request-id", call.public_id.encode())]


def _others(part: Reply) -> RawHeaders:
    return raw(pair for pair in part.head if pair[0] != "content-type")


def _server_timing(final: Reply) -> bytes:
    """https://www.w3.org/TR/server-timing/ , milliseconds."""
    notes = dict(final.notes)
    found = [(name, notes[f"{name}-ms"]) for name in ("queue", "upstream") if f"{name}-ms" in notes]
    return ", ".join(f"{name};dur={value}" for name, value in found).encode()
