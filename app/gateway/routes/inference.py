"""POST to an inference endpoint, with JSON or a form that names a model: to its worker, and the
reply back.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import orjson

from app.errors import BadRequest, ClientGone, UnknownUrl
from app.gateway.accounting.access_log import final_reply_fields
from app.gateway.accounting.async_accounting import make_async_request
from app.gateway.gateway import Gateway
from app.gateway.http.asgi import (
    Receive,
    Scope,
    Send,
    WriteChunk,
    extension,
    header,
    read_body,
    send_whole,
    watched,
)
from app.gateway.http.client_address import peer_of
from app.gateway.http.query_string import refuse_model, without_keys
from app.gateway.http.response_writer import EventStream, event_number, headers_of, send_reply
from app.gateway.http.unknown_url import unknown_url
from app.inference.async_requests import LEEWAY_SECONDS
from app.inference.pending_request import PendingRequest
from app.inference.request_view import RequestView
from app.inference.submission import Submission
from app.locality import is_trusted_proxy
from app.openai_api.bodies import check_body
from app.openai_api.endpoints import ENDPOINTS
from app.openai_api.multipart import check_form
from app.protocol.records import HOPS_HEADER, ReplyRecord
from app.protocol.reply_view import ReplyView

_HOPS = HOPS_HEADER.encode()
_SHOWN = 200  # characters of a model's name in the access line: it may be as large as the body

# Headers of the client that change what an upstream does; all others stay here.
_PASSED_ON = frozenset({b"openai-beta", b"anthropic-version", b"anthropic-beta", b"tracestate"})


class Inference:
    """An ASGI application, on the hot path: no request object, no validation model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["caller"].restricted:
            self._gateway.limiter.refuse_if_used_up(scope["state"])
        submission = await self._submission(scope, receive)
        seen = event_number(header(scope, b"last-event-id"), "Last-Event-ID")
        if not header(scope, b"idempotency-key"):
            seen = 0  # nothing is joined, so the client has seen nothing of it
        line = scope["state"]["line"]
        line["model"] = submission.model[:_SHOWN]
        unlimited = send
        if scope["state"]["caller"].restricted:
            ours = extension(scope)
            drain = ours["drain"] if ours else None
            send = await self._gateway.limiter.admit(scope["state"], submission, send, drain)
        async with self._opened(scope, submission) as call:
            del submission  # its body may be large and the wait long
            line["request_id"] = call.public_id
            if _wants_async(scope):
                await self._hand_over(call, scope)
                return await self._accepted(call, scope, unlimited)
            call.refill = call.refill or self._gateway.reply_reader.refill
            try:
                with watched(scope, receive, call.leave):
                    final = await self._answer(call, scope, send, seen)
            finally:
                line["attempts"] = call.fold.attempts
                line["worker"] = call.fold.writer or self._gateway.admission.worker_of(
                    call.model, call.id
                )
                self._gateway.reply_reader.release(call)
        line.update(final_reply_fields(final))

    def _opened(
        self, scope: Scope, submission: Submission
    ) -> AbstractAsyncContextManager[PendingRequest]:
        """A new call, or one joined: by the client's own key, or by the proxy's when it tries a
        second gateway.
        """
        key = header(scope, b"idempotency-key")
        if key:
            return self._gateway.idempotency.opened(f"client:{key}", submission, grace=True)
        proxied = header(scope, b"x-proxy-request-id")
        if proxied and self._gateway.settings.redis_url and self._is_trusted(scope):
            return self._gateway.idempotency.opened(f"proxy:{proxied}", submission, grace=False)
        return self._gateway.dispatcher.opened(submission)

    def _is_trusted(self, scope: Scope) -> bool:
        return is_trusted_proxy(peer_of(scope), self._gateway.settings.trusted_proxies)

    async def _hand_over(self, call: PendingRequest, scope: Scope) -> None:
        """It is accounted for at its end, by the inbox. One that was joined belongs to whoever took
        it: this only asks.
        """
        call.let_go = True
        if call.from_log:
            return
        state = scope["state"]
        left = call.request.deadline / 1000 - time.time() + LEEWAY_SECONDS
        grant = await state["grant"].hand_over(call.id, left) if "grant" in state else None
        self._gateway.detach_client(call, make_async_request(call, scope, grant))
        state["handed_over"] = True

    async def _accepted(self, call: PendingRequest, scope: Scope, send: Send) -> None:
        """Prefer: respond-async (RFC 7240): the request belongs to no connection any more."""
        resource = (
            RequestView(
                call.address, call.request, self._gateway.admission.model(call.model), ReplyView()
            )
            if call.address
            else None
        )
        body = orjson.dumps(resource.described() if resource else {})
        base = scope.get("root_path", "") + scope["state"].get("base", "")
        location = f"{base}/v1/requests/{call.public_id}"
        head = [
            ("content-type", "application/json"),
            ("location", location),
            ("preference-applied", "respond-async"),
        ]
        await send_whole(send, 202, headers_of(call.public_id, head), body)

    async def _submission(self, scope: Scope, receive: Receive) -> Submission:
        path = scope["path"].removeprefix("/v1")
        if path not in ENDPOINTS:
            self._refuse_unknown(path)
        body = await read_body(scope, receive, self._gateway.max_body_bytes)
        kind = header(scope, b"content-type")
        form = kind if kind[:10].lower() == "multipart/" else ""
        checked = check_form(path, form, body) if form else check_body(path, body)
        if path not in ENDPOINTS:
            self._refuse_unless_added(path, checked.model)
        query = scope.get("query_string", b"").decode("latin-1")
        if query:
            refuse_model(query)
            query = without_keys(query)
        return Submission(
            path=f"{path}?{query}" if query else path,
            body=body,
            model=checked.model,
            stream=checked.stream,
            tenant=scope["state"]["tenant"],
            timeout=self._timeout(header(scope, b"x-request-timeout")),
            hops=header(scope, _HOPS),
            head=tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in scope["headers"]
                if name in _PASSED_ON
            ),
            traceparent=header(scope, b"traceparent"),
            priority=scope["state"]["caller"].priority,
            content_type=form,
        )

    def _refuse_unknown(self, path: str) -> None:
        """Raise UnknownUrl for a path that no model adds, BusUnavailable while the models are not
        known.
        """
        self._gateway.admission.refuse_if_unready()
        if not any(path in known.card.paths for known in self._gateway.model_registry.all()):
            raise unknown_url("POST", f"/v1{path}")

    def _refuse_unless_added(self, path: str, model: str) -> None:
        """Raise UnknownUrl, ModelNotFound."""
        if path not in self._gateway.admission.model(model).card.paths:
            raise UnknownUrl(
                f"Unknown request URL: POST /v1{path}. The model {model!r} does not have it."
            )

    def _timeout(self, wanted: str) -> float:
        """X-Request-Timeout, seconds: it may shorten the deadline, not lengthen it."""
        longest = self._gateway.settings.request_timeout_seconds
        if not wanted:
            return longest
        try:
            seconds = float(wanted)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise BadRequest(
                "X-Request-Timeout: expected a number of seconds above 0", param="X-Request-Timeout"
            )
        return min(seconds, longest)

    async def _answer(
        self, call: PendingRequest, scope: Scope, send: Send, seen: int
    ) -> ReplyRecord:
        if not call.request.stream:
            return await send_reply(call, send)
        ids = bool(
            header(scope, b"last-event-id")
            or header(scope, b"idempotency-key")
            or header(scope, b"x-event-ids") == "1"
        )
        place = self._place(call) if header(scope, b"x-queue-updates") == "1" else None
        settings = self._gateway.settings
        stream = EventStream(
            call, send, settings, ids=ids, seen=seen, place=place, write=_write_of(scope)
        )
        try:
            return await stream.run()
        except ClientGone:
            if not stream.is_answered:
                raise
            return await call.until_ended()  # the client has all that it wants
        finally:  # its client may have left
            if stream.first_at:
                state = scope["state"]
                state["line"]["ttft_ms"] = round((stream.first_at - state["began"]) * 1000, 1)

    def _place(self, call: PendingRequest) -> Callable[[], bytes]:
        known = self._gateway.admission.model(call.model)

        def told() -> bytes:
            address = call.address
            position = known.position(address.partition, address.offset) if address else 0
            wait = known.estimated_wait(position)
            why = f" reason={known.why_unserved}".encode() if not known.serving else b""
            return b": queue position=%d%s%s\n\n" % (
                position,
                b"" if wait is None else b" wait=%.1f" % wait,
                why,
            )

        return told


def _write_of(scope: Scope) -> WriteChunk | None:
    """What writes a stream's parts without `send`, where the server can."""
    ours = extension(scope)
    if ours is None or "grant" not in scope["state"]:
        return ours and ours["write"]
    write: WriteChunk = scope["state"]["grant"].reading(ours["write"])
    return write


def _wants_async(scope: Scope) -> bool:
    return "respond-async" in [
        token.strip().lower() for token in header(scope, b"prefer").split(",")
    ]
