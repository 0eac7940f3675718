"""What to do about a request whose reply has come so far: run it, go on with it, end it, or give it up. Pure."""

from dataclasses import dataclass

import orjson

from app.agent.continuation import Joiner, Prefix, budget_left, can_continue, continued, ending
from app.contracts.envelope import Request
from app.contracts.openai import CHAT, COMPLETIONS
from app.contracts.seen import Seen
from app.errors import GatewayError, ReplyLogTruncated, WorkerLost


@dataclass(frozen=True, slots=True)
class Run:
    """Ask the upstream with this body; what it sends goes through the joiner, if there is one."""

    body: bytes
    joiner: Joiner | None = None
    goes_on: bool = False  # from a text that was shown


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is missing but the end: these events."""

    events: bytes


def plan(request: Request, seen: Seen, continues: bool) -> Run | Finish | GatewayError:
    """Visible text is never silently begun anew: it is continued where that is faithful, else the error is the client's."""
    if seen.truncated:
        return ReplyLogTruncated("the beginning of this reply is no longer kept, so it cannot be continued")
    if not request.stream or not seen.parts:
        return Run(request.body)
    path = request.path.partition("?")[0]
    prefix = Prefix.of(path, seen.text)
    if not prefix.shown:
        return Run(request.body, Joiner(prefix, same_text=False) if prefix.first else None)
    if path not in (CHAT, COMPLETIONS):
        return _lost()
    body = orjson.loads(request.body)
    if prefix.plain and prefix.finished:
        return Finish(ending(path, body, prefix))
    if not continues or not can_continue(path, body, prefix):
        return _lost()
    left = budget_left(body, prefix)
    if left is not None and left <= 0:
        return Finish(ending(path, body, prefix))
    return Run(continued(path, body, prefix), Joiner(prefix, same_text=True), goes_on=True)


def _lost() -> WorkerLost:
    return WorkerLost("the worker that wrote this stream is gone, and the text cannot be continued; send the request again")
