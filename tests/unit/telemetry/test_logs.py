"""Log lines: nothing that a client sends makes a line of its own, or looks like something else on a
terminal.
"""

import logging
import sys
from typing import Any

import orjson
import pytest

from app.telemetry.logs import JsonFormatter, TextFormatter

# Bidirectional controls, other format controls, C0 and C1 controls, separators of lines, a tag
# character.
HIDDEN = [
    *"\u202e\u202a\u2066\u2069\u200e\u200f\u061c\u200b\u200d\u2060\ufeff\u00ad\u180e\ufff9",
    *"\x1b\x9b\x7f\x00\n\r\u2028\u2029\x85",
    "\U000e0041",
]
SHOWN = "Gr\u00fc\u00dfe \u4e2d\u6587 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \U0001f600"


def record(text: str, *, raised: bool = False) -> logging.LogRecord:
    found: dict[str, Any] = {
        "name": "app.access",
        "levelname": "INFO",
        "msg": "POST %s",
        "args": (text,),
        "model": text,
    }
    if raised:
        try:
            raise ValueError(text)
        except ValueError:
            found["exc_info"] = sys.exc_info()
    return logging.makeLogRecord(found)


@pytest.mark.parametrize("char", HIDDEN, ids=lambda char: f"U+{ord(char):04X}")
def test_what_a_terminal_obeys_or_hides_is_escaped_in_text_and_in_json(char: str) -> None:
    text = f"sim{char}mis"
    line = TextFormatter().format(record(text))
    assert line.isprintable()
    escape = char.encode("unicode_escape").decode()
    assert line.count(f"sim{escape}mis") == 2
    document = JsonFormatter().format(record(text))
    assert document.isprintable()
    said = orjson.loads(document)
    assert (said["message"], said["model"]) == (f"POST {text}", text)


def test_text_in_any_language_stays_as_it_is() -> None:
    assert SHOWN in TextFormatter().format(record(SHOWN))
    assert SHOWN in JsonFormatter().format(record(SHOWN))


def test_a_message_in_a_traceback_is_escaped_and_makes_no_line_that_looks_like_one_of_ours() -> (
    None
):
    forged = "09:14:07 INFO    app.access: POST /v1/all-is-well"
    first, *trace = (
        TextFormatter().format(record(f"a\u202eb\x1b[2J\n{forged}", raised=True)).split("\n")
    )
    assert first.endswith("model=a\\u202eb\\x1b[2J\\n" + forged)
    assert all(line.isprintable() and line.startswith("  ") for line in trace)
    assert f"  {forged}" in trace
    assert JsonFormatter().format(record("a\u202eb", raised=True)).isprintable()
