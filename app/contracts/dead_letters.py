"""The headers of a dead letter: what was said of the record when it was put aside, and its own."""

from app.contracts.envelope import Headers

ORIGIN, REASON = "dlq-origin", "dlq-reason"
CUT = "dlq-cut"  # the bytes that its value had, where the topic took no record of this size
_UNKNOWN = "?"


def split(headers: Headers) -> tuple[dict[str, str], Headers]:
    """What was said of it, by name, and the record's own headers."""
    said = {name: value.decode(errors="replace") for name, value in headers if name.startswith("dlq-")}
    return said, [pair for pair in headers if not pair[0].startswith("dlq-")]


def own(headers: Headers, name: str) -> str:
    """One of the record's own headers; `?` where it has none: it may be anybody's record."""
    return next((value.decode(errors="replace") for key, value in headers if key == name), _UNKNOWN)
