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
    get_connection_extension,
    get_header,
    read_body,
    send_response,
    watch_disconnect,
)
from app.gateway.http.client_address import get_peer_address
from app.gateway.http.query_string import refuse_model_parameter, strip_secret_parameters
from app.gateway.http.reply_body import build_reply_headers, parse_event_number
from app.gateway.http.response_writer import EventStream, send_reply
from app.gateway.http.unknown_url import unknown_url_error
from app.inference.async_requests import DEADLINE_LEEWAY_SECONDS
from app.inference.pending_request import PendingRequest
from app.inference.request_view import RequestView
from app.inference.submission import Submission
from app.locality import is_trusted_proxy
from app.openai_api.bodies import check_body
from app.openai_api.endpoints import ENDPOINTS
from app.openai_api.multipart import check_form
from app.protocol.records import HOPS_HEADER, ReplyRecord
from app.protocol.reply_view import ReplyView

_RAW_HOPS_HEADER = HOPS_HEADER.encode()
# characters of a model's name in the access line: it may be as large as the body
_MAX_MODEL_NAME_CHARS = 200

# Headers of the client that change what an upstream does; all others stay here.
_FORWARDED_HEADERS = frozenset(
    {b"openai-beta", b"anthropic-version", b"anthropic-beta", b"tracestate"}
)


class InferenceEndpoint:
    """An ASGI application, on the hot path: no request object, no validation model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["caller"].is_restricted:
            self._gateway.limiter.refuse_if_used_up(scope["state"])
        submission = await self._read_submission(scope, receive)
        last_seen_number = parse_event_number(get_header(scope, b"last-event-id"), "Last-Event-ID")
        if not get_header(scope, b"idempotency-key"):
            last_seen_number = 0  # nothing is joined, so the client has seen nothing of it
        line = scope["state"]["line"]
        line["model"] = submission.model[:_MAX_MODEL_NAME_CHARS]
        unlimited_send = send
        if scope["state"]["caller"].is_restricted:
            connection_extension = get_connection_extension(scope)
            drain = connection_extension["drain"] if connection_extension else None
            send = await self._gateway.limiter.admit(scope["state"], submission, send, drain)
        async with self._open_request(scope, submission) as pending:
            del submission  # its body may be large and the wait long
            line["request_id"] = pending.public_id
            if _is_async_requested(scope):
                await self._detach_client(pending, scope)
                return await self._send_accepted(pending, scope, unlimited_send)
            pending.refill_from_log = (
                pending.refill_from_log or self._gateway.reply_reader.refill_from_log
            )
            try:
                with watch_disconnect(scope, receive, pending.mark_client_left):
                    final = await self._send_reply(pending, scope, send, last_seen_number)
            finally:
                line["attempts"] = pending.reply_state.attempts
                line["worker"] = pending.reply_state.writer or self._gateway.admission.find_worker(
                    pending.model_id, pending.id
                )
                self._gateway.reply_reader.stop_following(pending)
        line.update(final_reply_fields(final))

    def _open_request(
        self, scope: Scope, submission: Submission
    ) -> AbstractAsyncContextManager[PendingRequest]:
        """A new call, or one joined: by the client's own key, or by the proxy's when it tries a
        second gateway.
        """
        key = get_header(scope, b"idempotency-key")
        if key:
            return self._gateway.idempotency.open_request(
                f"client:{key}", submission, has_grace=True
            )
        proxy_request_id = get_header(scope, b"x-proxy-request-id")
        if proxy_request_id and self._gateway.settings.redis_url and self._is_trusted_peer(scope):
            return self._gateway.idempotency.open_request(
                f"proxy:{proxy_request_id}", submission, has_grace=False
            )
        return self._gateway.dispatcher.open_request(submission)

    def _is_trusted_peer(self, scope: Scope) -> bool:
        return is_trusted_proxy(get_peer_address(scope), self._gateway.settings.trusted_proxies)

    async def _detach_client(self, pending: PendingRequest, scope: Scope) -> None:
        """It is accounted for at its end, by the inbox. One that was joined belongs to whoever took
        it: this only asks.
        """
        pending.is_detached = True
        if pending.is_fed_from_log:
            return
        state = scope["state"]
        remaining_seconds = pending.request.deadline / 1000 - time.time() + DEADLINE_LEEWAY_SECONDS
        reservation = (
            await state["grant"].keep_for_async_request(pending.id, remaining_seconds)
            if "grant" in state
            else None
        )
        self._gateway.detach_client(pending, make_async_request(pending, scope, reservation))
        state["handed_over"] = True

    async def _send_accepted(self, pending: PendingRequest, scope: Scope, send: Send) -> None:
        """Prefer: respond-async (RFC 7240): the request belongs to no connection any more."""
        request_view = (
            RequestView(
                pending.address,
                pending.request,
                self._gateway.admission.get_model(pending.model_id),
                ReplyView(),
            )
            if pending.address
            else None
        )
        body = orjson.dumps(request_view.describe() if request_view else {})
        base = scope.get("root_path", "") + scope["state"].get("base", "")
        location = f"{base}/v1/requests/{pending.public_id}"
        head = [
            ("content-type", "application/json"),
            ("location", location),
            ("preference-applied", "respond-async"),
        ]
        await send_response(send, 202, build_reply_headers(pending.public_id, head), body)

    async def _read_submission(self, scope: Scope, receive: Receive) -> Submission:
        path = scope["path"].removeprefix("/v1")
        if path not in ENDPOINTS:
            self._refuse_unknown(path)
        body = await read_body(scope, receive, self._gateway.max_body_bytes)
        content_type = get_header(scope, b"content-type")
        form_content_type = content_type if content_type[:10].lower() == "multipart/" else ""
        parsed_body = (
            check_form(path, form_content_type, body)
            if form_content_type
            else check_body(path, body)
        )
        if path not in ENDPOINTS:
            self._refuse_unless_added(path, parsed_body.model)
        query = scope.get("query_string", b"").decode("latin-1")
        if query:
            refuse_model_parameter(query)
            query = strip_secret_parameters(query)
        return Submission(
            path=f"{path}?{query}" if query else path,
            body=body,
            model=parsed_body.model,
            stream=parsed_body.stream,
            tenant=scope["state"]["tenant"],
            timeout_seconds=self._parse_timeout(get_header(scope, b"x-request-timeout")),
            hops=get_header(scope, _RAW_HOPS_HEADER),
            head=tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in scope["headers"]
                if name in _FORWARDED_HEADERS
            ),
            traceparent=get_header(scope, b"traceparent"),
            priority=scope["state"]["caller"].priority,
            content_type=form_content_type,
        )

    def _refuse_unknown(self, path: str) -> None:
        """Raise UnknownUrl for a path that no model adds, BusUnavailable while the models are not
        known.
        """
        self._gateway.admission.refuse_if_unready()
        if not any(
            path in model_state.card.paths for model_state in self._gateway.model_registry.all()
        ):
            raise unknown_url_error("POST", f"/v1{path}")

    def _refuse_unless_added(self, path: str, model: str) -> None:
        """Raise UnknownUrl, ModelNotFound."""
        if path not in self._gateway.admission.get_model(model).card.paths:
            raise UnknownUrl(
                f"Unknown request URL: POST /v1{path}. The model {model!r} does not have it."
            )

    def _parse_timeout(self, header_value: str) -> float:
        """X-Request-Timeout, seconds: it may shorten the deadline, not lengthen it."""
        max_seconds = self._gateway.settings.request_timeout_seconds
        if not header_value:
            return max_seconds
        try:
            seconds = float(header_value)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise BadRequest(
                "X-Request-Timeout: expected a number of seconds above 0", param="X-Request-Timeout"
            )
        return min(seconds, max_seconds)

    async def _send_reply(
        self, pending: PendingRequest, scope: Scope, send: Send, last_seen_number: int
    ) -> ReplyRecord:
        if not pending.request.stream:
            return await send_reply(pending, send)
        has_event_ids = bool(
            get_header(scope, b"last-event-id")
            or get_header(scope, b"idempotency-key")
            or get_header(scope, b"x-event-ids") == "1"
        )
        make_queue_comment = (
            self._make_queue_commenter(pending)
            if get_header(scope, b"x-queue-updates") == "1"
            else None
        )
        settings = self._gateway.settings
        stream = EventStream(
            pending,
            send,
            settings,
            has_event_ids=has_event_ids,
            last_seen_number=last_seen_number,
            make_queue_comment=make_queue_comment,
            write_chunk=_find_write_chunk(scope),
        )
        try:
            return await stream.run()
        except ClientGone:
            if not stream.is_answer_complete:
                raise
            return await pending.wait_for_final()  # the client has all that it wants
        finally:  # its client may have left
            if stream.first_part_at:
                state = scope["state"]
                state["line"]["ttft_ms"] = round((stream.first_part_at - state["began"]) * 1000, 1)

    def _make_queue_commenter(self, pending: PendingRequest) -> Callable[[], bytes]:
        model_state = self._gateway.admission.get_model(pending.model_id)

        def make_queue_comment() -> bytes:
            address = pending.address
            position = model_state.position(address.partition, address.offset) if address else 0
            wait_seconds = model_state.estimated_wait(position)
            reason_text = (
                f" reason={model_state.why_unserved}".encode() if not model_state.serving else b""
            )
            return b": queue position=%d%s%s\n\n" % (
                position,
                b"" if wait_seconds is None else b" wait=%.1f" % wait_seconds,
                reason_text,
            )

        return make_queue_comment


def _find_write_chunk(scope: Scope) -> WriteChunk | None:
    """What writes a stream's parts without `send`, where the server can."""
    connection_extension = get_connection_extension(scope)
    if connection_extension is None or "grant" not in scope["state"]:
        return connection_extension and connection_extension["write"]
    write_chunk: WriteChunk = scope["state"]["grant"].wrap_write(connection_extension["write"])
    return write_chunk


def _is_async_requested(scope: Scope) -> bool:
    return "respond-async" in [
        token.strip().lower() for token in get_header(scope, b"prefer").split(",")
    ]
