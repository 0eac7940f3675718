"""The headers of a dead letter: the marks that say why it was put aside, and the record's own."""

from app.protocol.records import Headers

ORIGIN, REASON = "dlq-origin", "dlq-reason"
CUT = "dlq-cut"  # the bytes that its value had, where the topic took no record of this size
_MARK = "dlq-"
_UNKNOWN = "?"


def split(headers: Headers) -> tuple[dict[str, str], Headers]:
    """Return the marks by name, and the record's own headers.

    Marks are written before the record's own headers, so of two with one name the first counts.
    """
    marks: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(_MARK):
            marks.setdefault(name, value.decode(errors="replace"))
    return marks, without_marks(headers)


def without_marks(headers: Headers) -> Headers:
    """Return the headers that may be a record's own: anyone who writes to a topic can forge a
    mark.
    """
    return [pair for pair in headers if not pair[0].startswith(_MARK)]


def own(headers: Headers, name: str) -> str:
    """Return one of the record's own headers; `?` where it has none: it may be anybody's record."""
    return next((value.decode(errors="replace") for key, value in headers if key == name), _UNKNOWN)
