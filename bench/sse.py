"""Streamed replies, read as cheaply as can be: events are counted in the bytes, and only a reply
now and then is parsed.
"""

from dataclasses import dataclass
from typing import Any

import orjson

_EVENT = b"\ndata:"
_DONE = b"[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")


class EventCounter:
    """Counts the `data:` events of one stream, however it was cut into pieces. Line ends are LF or
    CRLF.
    """

    def __init__(self) -> None:
        self.events = 0
        self.done = False  # [DONE] has come
        # One byte less than what is looked for: what is cut in two is found whole, and nothing
        # twice.
        self._tail = b"\n"

    def feed(self, data: bytes) -> int:
        """How many events began in `data`."""
        text = self._tail + data
        begun = text.count(_EVENT)
        self.events += begun
        if _DONE in text:
            self.done = True
        self._tail = text[1 - len(_EVENT) :]
        return begun


@dataclass(frozen=True)
class Reply:
    """A reply, parsed."""

    text: str
    tokens: int  # events that carry text; of a whole reply what its usage says
    events: int


def parse_stream(body: bytes) -> Reply:
    """Raises ValueError for what is not JSON where it should be."""
    lines = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    texts = [_texts(orjson.loads(line)) for line in lines if line != _DONE]
    return Reply(
        "".join(text for text, _ in texts), sum(carries for _, carries in texts), len(lines)
    )


def _texts(event: Any) -> tuple[str, bool]:
    """The text of an event, and whether it carries anything that was generated."""
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or choices[0]
    carries = any(delta.get(name) for name in (*_TEXTS, "text"))
    return delta.get("content") or delta.get("text") or "", carries


def parse_whole(body: bytes) -> Reply:
    """Raises ValueError for what is not a completion."""
    document = orjson.loads(body)
    choices = document.get("choices") or []
    if not choices:
        raise ValueError("no choices")
    message = choices[0].get("message") or choices[0]
    text = message.get("content") or message.get("text") or ""
    return Reply(text, (document.get("usage") or {}).get("completion_tokens", 0), 0)
