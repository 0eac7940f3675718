"""Passes one answer of an upstream into the reply: as events, or as a whole body."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import orjson

from app.agent.engines.base import JSON, Answer, EngineBroken
from app.agent.engines.redact import refusal_words
from app.agent.reply.event_relay import EventRelay
from app.agent.reply.job_context import JobContext
from app.agent.reply.plan import Run
from app.agent.reply.reply_writer import ReplyWriter
from app.agent.reply.stream_detector import StreamDetector
from app.agent.reply.usage_request import refuses
from app.agent.reply.usage_tail import usage
from app.errors import ReplyTooLarge, UpstreamAuthFailed, UpstreamRedirected, WorkerLost
from app.openai_api.bodies import is_text_content_type
from app.openai_api.body_as_events import convert_body_to_events
from app.openai_api.endpoints import (
    Endpoint,
    StreamEnd,
    find_bare_error,
    find_last_error,
    find_usage,
    parse_event_data,
)
from app.openai_api.model_member import replace_reply_model
from app.openai_api.sse import extract_event_data, has_data, split_events
from app.protocol.records import RequestRecord
from app.protocol.reply_state import COMPLETED, FAILED
from app.telemetry.logs import Throttle

logger = logging.getLogger("app.agent.upstream")  # one of its own: it is throttled
logger.addFilter(Throttle())

_REFUSAL_BYTES = 64 * 1024  # of the body of a 401 or 403 that are read, for the log
_REFUSAL_SECONDS = 5.0  # within which they have to come
EVENT_STREAM = "text/event-stream; charset=utf-8"

_ERROR = re.compile(rb'"error"\s*:\s*[^\sn]')

Notes = Callable[[dict[str, Any]], tuple[tuple[str, str], ...]]
Head = tuple[tuple[str, str], ...]


class UsageRefused(Exception):
    """The upstream may have refused `stream_options`, which the worker added to the request."""


class EndedEarly(EngineBroken):
    """The body ended cleanly, and the stream in it has no end. `is_empty`: nor has it a single
    event.
    """

    def __init__(self, words: str, *, is_empty: bool) -> None:
        super().__init__(words)
        self.is_empty = is_empty


class ReplyPass:
    """One answer on its way into the log. `notes` makes the final record's notes from the usage."""

    def __init__(
        self,
        context: JobContext,
        request: RequestRecord,
        endpoint: Endpoint,
        writer: ReplyWriter,
        planned: Run,
        notes: Notes,
    ) -> None:
        self._context = context
        self._request = request
        self._endpoint = endpoint
        self._writer = writer
        self._planned = planned
        self._notes = notes
        self._upstream_name = context.entry.upstream_name

    async def pass_on(self, answer: Answer, *, strip_usage: bool) -> None:
        """Write the answer up to its final record.

        `strip_usage`: the worker asked for the usage, so it is not for the client. Raises
        UsageRefused, EngineBroken, WorkerLost, ReplyTooLarge.
        """
        if 300 <= answer.status < 400:
            raise UpstreamRedirected(
                f"the server of {self._model} answers with a redirect ({answer.status})"
            )
        if answer.status in (401, 403, 407):  # the last one is a proxy's
            await self._refuse_token(answer)
        if answer.status >= 400 or not self._request.stream:
            return await self._pass_body(
                answer, await answer.read(self._context.most_body), strip_usage=strip_usage
            )
        relay = EventRelay(
            self._writer,
            self._planned.joiner,
            self._rename if self._is_renamed else None,
            strip=strip_usage,
            most_event=self._context.most_event,
        )
        if answer.is_stream:
            self._begin_stream(answer)
            return await self._pass_events(answer, relay, relay.take)
        detector = StreamDetector(
            relay, lambda: self._begin_stream(answer), self._context.most_body
        )
        await self._pass_events(answer, relay, detector.take, detector)

    @property
    def _model(self) -> str:
        return f"model {self._context.entry.id!r}"

    async def _refuse_token(self, answer: Answer) -> None:
        """Raise UpstreamAuthFailed. The upstream's words are for the worker's log: they may quote
        the token.
        """
        entry = self._context.entry
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                words = refusal_words(
                    await answer.read(_REFUSAL_BYTES), entry.token.get_secret_value()
                )
        except (EngineBroken, ReplyTooLarge, TimeoutError):
            words = "(its words could not be read)"
        extra = {"request_id": self._request.id}
        logger.error(
            "%s: its server refuses the token (%d): %s",
            self._model,
            answer.status,
            words,
            extra=extra,
        )
        raise UpstreamAuthFailed(
            f"the server of {self._model} refuses this gateway's token ({answer.status})"
        )

    async def _pass_events(
        self,
        answer: Answer,
        relay: EventRelay,
        take: Callable[[bytes], Any],
        detector: StreamDetector | None = None,
    ) -> None:
        try:
            await answer.relay(take)
            is_clean = True
        except EngineBroken:
            if not relay.is_done:  # else nothing is missing
                self._write_held(relay)
                raise
            is_clean = False
        if detector is not None and not detector.is_stream:
            return await self._pass_body(answer, detector.body)
        rest = relay.rest.strip(b"\r\n") if is_clean else b""
        if rest and not relay.first and not has_data(rest) and find_last_error(rest) is None:
            return await self._pass_body(answer, rest)  # no stream, whatever its Content-Type says
        await self._finish_stream(relay, rest)

    async def _finish_stream(self, relay: EventRelay, rest: bytes) -> None:
        bare = None
        if rest.startswith(b"{"):
            bare = find_bare_error(rest)
        elif rest:
            relay.take_last_event(rest)
        end = self._endpoint.read_stream_end(relay.latest)
        bare = bare or (None if end.is_complete or end.error else find_bare_error(relay.latest))
        if (
            bare is None
            and end.error is None
            and self._endpoint.is_end_required
            and not end.is_complete
        ):
            self._write_held(relay)
            raise EndedEarly(
                "it ended without a finish reason",
                is_empty=not has_data(relay.first + relay.latest),
            )
        last = relay.release() + (self._endpoint.encode_error_event(bare) if bare else b"")
        failed = bool(bare) or end.is_failed
        await self._writer.finish(
            FAILED if failed else COMPLETED, last, notes=self._notes(self._used(relay, end))
        )

    def _used(self, relay: EventRelay, end: StreamEnd) -> dict[str, Any]:
        """Return the stream's usage. Anthropic's streams count the prompt in their first event."""
        begun = (
            find_usage(parse_event_data(extract_event_data(split_events(relay.first)[0])))
            if self._endpoint.is_anthropic
            else {}
        )
        return {**begun, **end.usage}

    def _write_held(self, relay: EventRelay) -> None:
        if held := relay.release():
            self._writer.write(held)

    async def _pass_body(self, answer: Answer, body: bytes, *, strip_usage: bool = False) -> None:
        status, head = answer.status, answer.headers
        if strip_usage and refuses(status, body):
            raise UsageRefused
        is_converted = status < 400 and self._request.stream and self._endpoint.is_end_required
        if self._planned.goes_on and (is_converted or status >= 400):
            raise WorkerLost(
                f"the upstream would not go on from the text so far: it answered {status}, "
                f"and no stream"
            )
        if is_converted:
            return await self._pass_body_as_events(answer, body)
        if answer.is_stream:
            body = find_last_error(body) or body.strip()
            head = _with_content_type(head, JSON if _is_json(body) else "text/plain; charset=utf-8")
        self._writer.start(status, head)
        used: dict[str, Any] = {}
        failed = status >= 400
        if is_text_content_type(dict(head).get("content-type", "")):
            body, used, failed = self._rename(body), usage(body), failed or _has_error(body)
        await self._writer.finish(FAILED if failed else COMPLETED, body, notes=self._notes(used))

    async def _pass_body_as_events(self, answer: Answer, body: bytes) -> None:
        """Pass on a success that is no stream, though the client asked for one: its SDK would find
        no event in it.
        """
        if len(body) > self._context.most_event:
            raise ReplyTooLarge(
                f"the model's reply, which is no stream, is larger than "
                f"{self._context.most_event} bytes"
            )
        content_type = JSON if answer.is_stream else dict(answer.headers).get("content-type", "")
        events = convert_body_to_events(
            self._endpoint, answer.status, content_type, self._rename(body)
        )
        self._begin_stream(answer)
        outcome = FAILED if self._endpoint.read_stream_end(events).is_failed else COMPLETED
        await self._writer.finish(outcome, events, notes=self._notes(usage(body)))

    def _begin_stream(self, answer: Answer) -> None:
        head = answer.headers
        if not answer.is_stream:  # its Content-Type names something else
            head = _with_content_type(head, EVENT_STREAM)
        self._writer.start(answer.status, head)

    @property
    def _is_renamed(self) -> bool:
        return self._request.model != self._upstream_name

    def _rename(self, block: bytes) -> bytes:
        return (
            replace_reply_model(block, self._upstream_name, self._request.model)
            if self._is_renamed
            else block
        )


def _with_content_type(head: Head, content_type: str) -> Head:
    return (("content-type", content_type), *(pair for pair in head if pair[0] != "content-type"))


def _has_error(body: bytes) -> bool:
    """Return whether a whole reply names an error. In a JSON text the quotes are escaped, so this
    finds only members.
    """
    return _ERROR.search(body) is not None and bool(parse_event_data(body).get("error"))


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True
