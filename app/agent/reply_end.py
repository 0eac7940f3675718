"""What the last bytes of an upstream's reply say, without parsing them."""

import re
from collections.abc import Iterator

TAIL_BYTES = 4096  # that are enough

# Inside a text a quote is escaped; whether this one is, is looked at afterwards: a pattern beginning with a look-behind is tried
# at each byte (140 us for a tail, where these take 2).
_FINISHED = re.compile(rb'"finish_reason":\s*"')
_USAGE = re.compile(rb'"usage":\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_DONE = re.compile(rb"data: ?\[DONE\]")
_ERROR = re.compile(rb'data: ?\{"error"')


def is_finished(tail: bytes) -> bool:
    """Whether a chat's or a completion's events came to their end."""
    return any(members(_FINISHED, tail)) or _DONE.search(tail) is not None


def has_error(tail: bytes) -> bool:
    return _ERROR.search(tail) is not None


def usage(tail: bytes) -> str:
    """The last `usage` object, as JSON; empty if there is none."""
    at = len(tail)
    while (at := tail.rfind(b'"usage":', 0, at)) >= 0:  # found at once, where the pattern would go through the whole tail
        found = _USAGE.match(tail, at)
        if found is not None and not _is_escaped(found):
            return found[1].decode(errors="replace")
    return ""


def members(pattern: re.Pattern[bytes], tail: bytes) -> Iterator[re.Match[bytes]]:
    """Where a pattern that begins with a member's name is found outside of texts."""
    return (found for found in pattern.finditer(tail) if not _is_escaped(found))


def _is_escaped(found: re.Match[bytes]) -> bool:
    return found.string[found.start() - 1 : found.start()] == b"\\"
