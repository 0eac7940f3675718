"""What a log may show of an upstream's refusal: the reason, without credentials and without the
prompt.
"""

import re
from typing import Any

import orjson

MOST_SHOWN = 500  # characters

_SHORTEST_PART = 4  # characters of a secret by which a part of it is recognised
_WORD = re.compile(r"[^\s\"',;:<>(){}\[\]]+")
# Keys are shown in part as sk-abc***xyz; whole ones begin with such a prefix, or are long words
# with digits.
_KEY_LIKE = re.compile(
    r"\*{2,}|\.{3}|\u2026|^(sk|pk|gsk|xai|hf|key|bearer|basic)[-_]|^(?=[^\d]*\d)[A-Za-z0-9_\-+/=.]{20,}$",
    re.I,
)
_MEMBERS = ("message", "type", "code")  # others may repeat the prompt


def refusal_words(body: bytes, token: str) -> str:
    """Return what an error's body says, without the words that are, or contain a part of, the token
    or another key.

    Of a JSON object only the error's message, type and code are shown, and nothing where it has
    none.
    """
    try:
        words = _told(orjson.loads(body))
    except orjson.JSONDecodeError:
        words = body.decode(errors="replace")
    parts = (
        {token[:_SHORTEST_PART], token[-_SHORTEST_PART:]}
        if len(token) >= _SHORTEST_PART
        else set[str]()
    )
    shown = _WORD.sub(
        lambda word: "[redacted]" if _is_secret(word[0], parts) else word[0],
        words[: 4 * MOST_SHOWN],
    )
    return " ".join(shown.split())[:MOST_SHOWN]


def _is_secret(word: str, parts: set[str]) -> bool:
    return _KEY_LIKE.search(word) is not None or any(part in word for part in parts)


def _told(document: Any) -> str:
    error = document.get("error", document) if isinstance(document, dict) else None
    if isinstance(error, str):
        return error
    found = [error.get(name) for name in _MEMBERS] if isinstance(error, dict) else []
    return ", ".join(word for word in found if isinstance(word, str))
