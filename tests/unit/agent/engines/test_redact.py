"""What the log shows of a refusal: its reason, and no part of a secret that could be one."""

import orjson
import pytest

from app.agent.engines.redact import MOST_SHOWN, refusal_words

TOKEN = "live-0123456789abcdef"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            b'{"error":{"message":"no such project","type":"t","code":"c","param":"x"}}',
            "no such project, t, c",
        ),
        (b'{"error":"unauthorized"}', "unauthorized"),
        (b'{"message":"no key","status":401}', "no key"),
        (b'{"detail":"x"}', ""),
        (b"[1]", ""),
        (b"", ""),
        (b"<h1>401</h1>\n\n no  more", "<h1>401</h1> no more"),
        (b"key: live-0123456789abcdef.", "key: [redacted]"),
        (b"Bearer live-0123456789abcdef", "Bearer [redacted]"),
        (b"it ends in 'cdef'", "it ends in '[redacted]'"),
        (b"it begins with live...", "it begins with [redacted]"),
        (b"Incorrect API key provided: sk-other***wxyz.", "Incorrect API key provided: [redacted]"),
        (b"another key 9f8e7d6c5b4a39281706f5e4d3c2b1a0", "another key [redacted]"),
    ],
)
def test_words_are_shown_and_credentials_are_not(body: bytes, shown: str) -> None:
    assert refusal_words(body, TOKEN) == shown


def test_what_may_repeat_the_prompt_is_not_shown() -> None:
    body = orjson.dumps(
        {
            "error": {"message": "flagged", "metadata": {"flagged_input": "the prompt"}},
            "input": "the prompt",
        }
    )
    assert refusal_words(body, "") == "flagged"


def test_it_is_short_whatever_comes() -> None:
    assert len(refusal_words(b"word " * 100_000, TOKEN)) <= MOST_SHOWN
    assert refusal_words(b"\xff\xfe", "") == "\ufffd\ufffd"
