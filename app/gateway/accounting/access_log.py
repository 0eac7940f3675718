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
from app.gateway.accounting.refusal_throttle import RefusalKind, RefusalThrottle
from app.gateway.http.asgi import Scope, get_header
from app.gateway.http.client_address import get_client_address
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import COMPLETED

AccessLine: TypeAlias = dict[str, object]
RequestObserver: TypeAlias = Callable[[str, int, AccessLine], None]

access_logger = logging.getLogger("app.access")

_WRITE_DELAY_SECONDS = 0.005
_MAX_PATH_CHARS = 300  # characters of a path
_MAX_CLIENT_ID_CHARS = 128  # characters of a client's own id
_UNLOGGED_PREFIXES = ("/healthz", "/readyz", "/metrics", "/admin", "/ui/")

# What an upstream calls them: the Responses, audio and Messages APIs have names of their own.
_USAGE_FIELDS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
}

# Milliseconds among a final record's notes. What else a later version notes is left alone.
_TIMING_FIELDS = {"queue-ms": "queue_ms", "upstream-ms": "upstream_ms"}


class AccessLog:
    """`on_request` is told of each request: its path, its status (0: none was sent), its line.
    `sample_rate` is the share of requests that went well whose line is written. All others have
    theirs, with the client's address (`trusted_proxies`: of proxies that tell it), but for floods
    of the same refusal.
    """

    def __init__(
        self,
        on_request: RequestObserver | None = None,
        sample_rate: float = 1.0,
        trusted_proxies: tuple[Network, ...] = (),
    ) -> None:
        self._on_request = on_request
        self._sample_rate = sample_rate
        self._trusted_proxies = trusted_proxies
        self._refusal_throttle = RefusalThrottle(_log_suppressed_refusals)
        self._pending_lines: list[tuple[Scope, int, AccessLine]] = []

    def log_request(self, scope: Scope, status: int, line: AccessLine) -> None:
        """A request that has been answered, or given up."""
        if scope["path"].startswith(_UNLOGGED_PREFIXES):
            return
        if not self._pending_lines:
            asyncio.get_running_loop().call_later(_WRITE_DELAY_SECONDS, self.flush)
        self._pending_lines.append((scope, status, line))

    def close(self) -> None:
        """Writes what is still to be written."""
        self.flush()
        self._refusal_throttle.end_window()

    def flush(self) -> None:
        """The lines of all that have ended."""
        pending_lines, self._pending_lines = self._pending_lines, []
        for scope, status, line in pending_lines:
            self._write_line(scope, status, line)

    def _write_line(self, scope: Scope, status: int, line: AccessLine) -> None:
        if client_request_id := client_id(scope):
            line["client_request_id"] = client_request_id
        if self._on_request is not None:
            self._on_request(scope["path"], status, line)
        if _is_success(status, line):
            if self._sample_rate < 1 and random.random() >= self._sample_rate:
                return
        else:
            client = get_client_address(scope, self._trusted_proxies)
            if "code" in line and not self._refusal_throttle.should_log(
                RefusalKind(str(line["code"] or ""), client)
            ):
                return
            if client:
                line["client_address"] = client
        access_logger.info(
            "%s %s",
            scope["method"],
            scope["path"][:_MAX_PATH_CHARS],
            extra={"status": status, **line},
        )


def client_id(scope: Scope) -> str:
    """What the client calls the request, cut to what is shown; empty if it calls it nothing."""
    return (get_header(scope, b"x-request-id") or get_header(scope, b"x-client-request-id"))[
        :_MAX_CLIENT_ID_CHARS
    ]


def final_reply_fields(final: ReplyRecord) -> AccessLine:
    """What the access line says of a reply that has ended."""
    notes = dict(final.notes)
    line: AccessLine = {"outcome": final.outcome}
    line.update(
        {ours: float(notes[theirs]) for theirs, ours in _TIMING_FIELDS.items() if theirs in notes}
    )
    usage = final.usage
    line.update({name: usage[theirs] for theirs, name in _USAGE_FIELDS.items() if theirs in usage})
    return line


def _log_suppressed_refusals(kind: RefusalKind, count: int) -> None:
    access_logger.info(
        "%d more were refused alike",
        count,
        extra={"left_out": count, "code": kind.code, "client_address": kind.client},
    )


def _is_success(status: int, line: AccessLine) -> bool:
    """A stream may have begun well and ended otherwise, and a client may have left."""
    return (
        0 < status < 400
        and line.get("outcome", COMPLETED) == COMPLETED
        and "code" not in line
        and "client" not in line
    )
