"""What the last bytes of an upstream's reply say, without parsing them."""

import json
import re
from collections.abc import Iterator
from typing import Any

from app.contracts.openai import CHAT, COMPLETIONS
from app.contracts.sse import MESSAGES

TAIL_BYTES = 4096  # that are enough

_TRIES = 8  # of a reply whose text is full of the word

# Inside a text a quote is escaped; whether this one is, is looked at afterwards: a pattern beginning with a look-behind is tried
# at each byte (140 us for a tail, where these take 2).
_DONE = re.compile(rb"data: ?\[DONE\]")
_REASON = re.compile(rb'"finish_reason":\s*"')
# How a stream that has come to its end says so; elsewhere a clean end of the body is the end.
_ENDS = {
    CHAT: _REASON,
    COMPLETIONS: _REASON,
    MESSAGES: re.compile(rb'"type":\s*"message_stop"'),
    "/responses": re.compile(rb'"type":\s*"response\.(?:completed|incomplete|failed|cancelled)"'),
}
_USAGE = b'"usage":'


def is_finished(path: str, latest: bytes) -> bool:
    """Whether a stream's events came to their end."""
    pattern = _ENDS.get(path)
    return pattern is None or any(members(pattern, latest)) or _DONE.search(latest) is not None


def usage(reply: bytes) -> dict[str, Any]:
    """The last `usage` object; empty if there is none, or none that is JSON."""
    at = len(reply)
    for _ in range(_TRIES):
        at = reply.rfind(_USAGE, 0, at)  # found at once, where a pattern would go through all of it
        if at < 0:
            break
        if reply[at - 1 : at] != b"\\" and (found := _object(reply[at + len(_USAGE) :][:TAIL_BYTES])):
            return found
    return {}


def _object(data: bytes) -> dict[str, Any]:
    try:
        found, _ = _DECODER.raw_decode(data.decode(errors="replace").lstrip())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def members(pattern: re.Pattern[bytes], tail: bytes) -> Iterator[re.Match[bytes]]:
    """Where a pattern that begins with a member's name is found outside of texts."""
    return (found for found in pattern.finditer(tail) if found.string[found.start() - 1 : found.start()] != b"\\")
