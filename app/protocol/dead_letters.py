"""The headers of a dead letter: the marks that say why it was put aside, and the record's own."""

from app.protocol.records import Headers

ORIGIN_HEADER, REASON_HEADER = "dlq-origin", "dlq-reason"
# the bytes that its value had, where the topic took no record of this size
ORIGINAL_SIZE_HEADER = "dlq-cut"
_MARK_PREFIX = "dlq-"
_UNKNOWN = "?"


def split_marks(headers: Headers) -> tuple[dict[str, str], Headers]:
    """Return the marks by name, and the record's own headers.

    Marks are written before the record's own headers, so of two with one name the first counts.
    """
    marks: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(_MARK_PREFIX):
            marks.setdefault(name, value.decode(errors="replace"))
    return marks, strip_marks(headers)


def strip_marks(headers: Headers) -> Headers:
    """Return the headers without marks.

    Any process that writes to a topic can forge a mark.
    """
    return [pair for pair in headers if not pair[0].startswith(_MARK_PREFIX)]


def get_original_header(headers: Headers, name: str) -> str:
    """Return one of the record's own headers; `?` where it has none: it may be anybody's record."""
    return next((value.decode(errors="replace") for key, value in headers if key == name), _UNKNOWN)
