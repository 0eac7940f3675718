"""What to do about a request whose reply has come so far: run it, go on with it, end it, or give it
up. Pure.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from app.agent.reply.continuation import (
    Joiner,
    Prefix,
    budget_left,
    can_continue,
    continued,
    ending,
)
from app.errors import GatewayError, ReplyLogTruncated, WorkerLost
from app.openai_api.bodies import CHAT, COMPLETIONS
from app.openai_api.endpoints import StreamEnd, find_endpoint
from app.protocol.records import RequestRecord
from app.protocol.reply_state import COMPLETED, FAILED
from app.protocol.reply_view import ReplyView


@dataclass(frozen=True, slots=True)
class Run:
    """Ask the upstream with this body; what it sends goes through the joiner, if there is one."""

    body: bytes
    joiner: Joiner | None = None
    goes_on: bool = False  # from a text that was shown


@dataclass(frozen=True, slots=True)
class Finish:
    """Only the end is missing: these events, which may be none."""

    events: bytes
    outcome: str = COMPLETED
    usage: dict[str, Any] = field(default_factory=dict)


def plan(request: RequestRecord, seen: ReplyView, continues: bool) -> Run | Finish | GatewayError:
    """Decide how to go on from the reply so far.

    Text that a client may have seen is never silently begun again: it is continued where that is
    faithful, else the client gets an error.
    """
    if seen.is_truncated:
        return ReplyLogTruncated(
            "the beginning of this reply is no longer kept, so it cannot be continued"
        )
    if not request.stream or not seen.parts:
        return Run(request.body)
    endpoint = find_endpoint(request.path)
    end = endpoint.read_stream_end(seen.text)
    if end.error is not None:
        return Finish(b"", FAILED, end.usage)
    prefix = Prefix.of(endpoint.path, seen.text)
    if end.is_complete:
        return Finish(_missing_end(request, end, prefix), COMPLETED, end.usage)
    if not prefix.shown:
        return Run(request.body, Joiner(prefix, same_text=False) if prefix.first else None)
    if endpoint.path not in (CHAT, COMPLETIONS):
        return _lost()
    body = orjson.loads(request.body)
    if not continues or not can_continue(endpoint.path, body, prefix):
        return _lost()
    left = budget_left(body, prefix)
    if left is not None and left <= 0:
        return Finish(ending(endpoint.path, body, prefix))
    return Run(continued(endpoint.path, body, prefix), Joiner(prefix, same_text=True), goes_on=True)


def _missing_end(request: RequestRecord, end: StreamEnd, prefix: Prefix) -> bytes:
    """Return the events that a complete answer lacks."""
    if end.is_done or not find_endpoint(request.path).is_done_sent:
        return b""
    return ending(prefix.path, orjson.loads(request.body), prefix)


def _lost() -> WorkerLost:
    return WorkerLost(
        "the worker that wrote this stream is gone, and the text cannot be continued; "
        "send the request again"
    )
