"""What the last bytes of an upstream's reply say, without parsing them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

TAIL_BYTES = 4096  # that are enough

_TRIES = 8  # of a reply whose text is full of the word

_USAGE = b'"usage":'
# Numbers of 17 digits or more, or written with an exponent above 0. Behind a point they are a
# fraction's: of a price.
_NO_COUNT = re.compile(rb"(?<![.\d])\d{17}|\de\+?\d")


def usage(reply: bytes) -> dict[str, Any]:
    """The last `usage` object; empty if there is none, or none that is JSON."""
    at = len(reply)
    for _ in range(_TRIES):
        at = reply.rfind(_USAGE, 0, at)  # found at once, where a pattern would go through all of it
        if at < 0:
            break
        if reply[at - 1 : at] != b"\\" and (
            found := _object(reply[at + len(_USAGE) :][:TAIL_BYTES])
        ):
            return found
    return {}


def usage_note(used: dict[str, Any]) -> str:
    """Return a usage as JSON, for the final record's notes.

    Empty without one, and for one that cannot be: with a number no count can have, or members
    nested too deep. The reply counts as one that names no usage.
    """
    if not used:
        return ""
    try:
        note = orjson.dumps(used)
    except orjson.JSONEncodeError:
        return ""
    return "" if _NO_COUNT.search(note) else note.decode()


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
    return (
        found
        for found in pattern.finditer(tail)
        if found.string[found.start() - 1 : found.start()] != b"\\"
    )
