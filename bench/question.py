"""The one request that a measurement sends again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

_PROMPT = (
    "Count upwards from zero, one number after another, and do not stop before you are told to."
)


@dataclass(frozen=True)
class Question:
    """Where it goes, its bytes, and what is known of the answer."""

    host: str
    port: int
    tls: bool
    request: bytes
    stream: bool
    tokens: int | None = None  # a reply has just so many
    text: str | None = None  # and this text


def question(
    base_url: str,
    model: str,
    *,
    stream: bool,
    max_tokens: int,
    key: str = "",
    more: Mapping[str, Any] | None = None,
    text: str | None = None,
) -> Question:
    """A chat completion at `base_url` (with or without /v1); `more` are further members of its
    body.

    With `text` every reply must have `max_tokens` tokens, and those that are parsed this text.
    Raises ValueError for an address that is none.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base_url}: not an http:// or https:// address")
    messages = [{"role": "user", "content": _PROMPT}]
    body = orjson.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "stream": stream,
            **(more or {}),
        }
    )
    path = (parts.path.rstrip("/") or "/v1") + "/chat/completions"
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    lines += [f"authorization: Bearer {key}"] if key else []
    tls = parts.scheme == "https"
    return Question(
        parts.hostname,
        parts.port or (443 if tls else 80),
        tls,
        "\r\n".join([*lines, "", ""]).encode() + body,
        stream,
        None if text is None else max_tokens,
        text,
    )
