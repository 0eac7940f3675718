"""What the last bytes of an upstream's reply say, without parsing them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

TAIL_BYTES = 4096  # that are enough

_TRIES = 8  # of a reply whose text is full of the word

_USAGE = b'"usage":'


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
    return found if isinstance(found, dict) and _is_storable(found) else {}


def _is_storable(found: dict[str, Any]) -> bool:
    """Return whether it can be written as JSON again: numbers beyond 64 bits cannot."""
    try:
        orjson.dumps(found)
    except TypeError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def members(pattern: re.Pattern[bytes], tail: bytes) -> Iterator[re.Match[bytes]]:
    """Where a pattern that begins with a member's name is found outside of texts."""
    return (found for found in pattern.finditer(tail) if found.string[found.start() - 1 : found.start()] != b"\\")
