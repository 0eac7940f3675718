"""Text that others wrote, for an operator's terminal and log."""

import json


def escape_unprintable(text: str, *, keep: str = "") -> str:
    """Return a text with escapes in place of what a terminal would obey, hide or reorder instead of
    showing it.

    Those are control characters, Unicode's bidirectional and other format controls, and what is no
    character (https://docs.python.org/3/library/stdtypes.html#str.isprintable). `keep`: such
    characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def escape_unprintable_json(document: bytes) -> str:
    """Return a JSON document of one line with the same characters as JSON's own escapes: its value
    stays the same.
    """
    if document.isascii() and b"\x7f" not in document:
        return document.decode("ascii")
    return "".join(
        char if char.isprintable() else json.dumps(char)[1:-1] for char in document.decode()
    )
