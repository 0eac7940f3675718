"""One line per request, and what the metrics count of it, a moment after the reply has left.

uvloop sends at the end of its turn what was written within it. A line made there would keep the
client waiting, one made in the next turn the client's next request: a twentieth of a request's
latency where one follows another. Made later, while the log and a worker have the request, it costs
nobody anything, and several at once cost less.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TypeAlias

from app.config.parsers import Network
from app.gateway.accounting.refusal_throttle import Kind, RefusalThrottle
from app.gateway.http.asgi import Scope, header
from app.gateway.http.client_address import client_of
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import COMPLETED

Line: TypeAlias = dict[str, object]
Observe: TypeAlias = Callable[[str, int, Line], None]

access = logging.getLogger("app.access")

_LATER_SECONDS = 0.005
_SHOWN = 300  # characters of a path
_CLIENT_ID = 128  # characters of a client's own id
_UNLOGGED = ("/healthz", "/readyz", "/metrics", "/admin", "/ui/")

# What an upstream calls them: the Responses, audio and Messages APIs have names of their own.
_TOKENS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
}

# Milliseconds among a final record's notes. What else a later version notes is left alone.
_TIMES = {"queue-ms": "queue_ms", "upstream-ms": "upstream_ms"}


class AccessLog:
    """`observe` is told of each request: its path, its status (0: none was sent), its line.
    `sample` is the share of requests that went well whose line is written. All others have theirs,
    with the client's address (`trusted`: of proxies that tell it), but for floods of the same
    refusal.
    """

    def __init__(
        self, observe: Observe | None = None, sample: float = 1.0, trusted: tuple[Network, ...] = ()
    ) -> None:
        self._observe = observe
        self._sample = sample
        self._trusted = trusted
        self._floods = RefusalThrottle(_left_out)
        self._ended: list[tuple[Scope, int, Line]] = []

    def ended(self, scope: Scope, status: int, line: Line) -> None:
        """A request that has been answered, or given up."""
        if scope["path"].startswith(_UNLOGGED):
            return
        if not self._ended:
            asyncio.get_running_loop().call_later(_LATER_SECONDS, self.write)
        self._ended.append((scope, status, line))

    def close(self) -> None:
        """Writes what is still to be written."""
        self.write()
        self._floods.end()

    def write(self) -> None:
        """The lines of all that have ended."""
        ended, self._ended = self._ended, []
        for scope, status, line in ended:
            self._write(scope, status, line)

    def _write(self, scope: Scope, status: int, line: Line) -> None:
        if theirs := client_id(scope):
            line["client_request_id"] = theirs
        if self._observe is not None:
            self._observe(scope["path"], status, line)
        if _went_well(status, line):
            if self._sample < 1 and random.random() >= self._sample:
                return
        else:
            client = client_of(scope, self._trusted)
            if "code" in line and not self._floods.admits(Kind(str(line["code"] or ""), client)):
                return
            if client:
                line["client_address"] = client
        access.info(
            "%s %s", scope["method"], scope["path"][:_SHOWN], extra={"status": status, **line}
        )


def client_id(scope: Scope) -> str:
    """What the client calls the request, cut to what is shown; empty if it calls it nothing."""
    return (header(scope, b"x-request-id") or header(scope, b"x-client-request-id"))[:_CLIENT_ID]


def noted(final: ReplyRecord) -> Line:
    """What the access line says of a reply that has ended."""
    notes = dict(final.notes)
    line: Line = {"outcome": final.outcome}
    line.update({ours: float(notes[theirs]) for theirs, ours in _TIMES.items() if theirs in notes})
    usage = final.usage
    line.update({name: usage[theirs] for theirs, name in _TOKENS.items() if theirs in usage})
    return line


def _left_out(kind: Kind, count: int) -> None:
    access.info(
        "%d more were refused alike",
        count,
        extra={"left_out": count, "code": kind.code, "client_address": kind.client},
    )


def _went_well(status: int, line: Line) -> bool:
    """A stream may have begun well and ended otherwise, and a client may have left."""
    return (
        0 < status < 400
        and line.get("outcome", COMPLETED) == COMPLETED
        and "code" not in line
        and "client" not in line
    )
