"""Going on from a text that a client has seen part of: when that is faithful, what to ask, and how
to join both halves. Pure.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from app.openai_api.bodies import CHAT, COMPLETIONS
from app.openai_api.endpoints import is_done_event, iter_choices, parse_event_data
from app.openai_api.sse import DONE_EVENT, encode_event, extract_event_data, has_data, split_events

# A request with one of these cannot be continued so that the whole is what one run would have
# given.
_UNFAITHFUL = (
    "tools", "functions", "logprobs", "top_logprobs", "response_format", "structured_outputs",
    "min_tokens", "echo", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "suffix",
)  # fmt: skip
_PLAIN_DELTA = frozenset({"role", "content"})
_KEPT = frozenset({"id", "object", "created", "model", "system_fingerprint"})
_LIMITS = ("max_completion_tokens", "max_tokens")
# where the request sets none: https://platform.openai.com/docs/api-reference/completions/create
_COMPLETION_LIMIT = 16


@dataclass(slots=True)
class Prefix:
    """What the events so far say."""

    path: str
    text: str = ""
    tokens: int = 0  # events with text: a server sends one per token
    events: int = 0  # `data:` events
    first: dict[str, Any] = field(default_factory=dict)  # the first chunk: id, created, model, ...
    finished: bool = False
    usage: bool = False
    plain: bool = True  # nothing but text was sent

    @classmethod
    def of(cls, path: str, block: bytes) -> "Prefix":
        """Read the events that a client may have seen: a block of whole ones."""
        prefix, pieces = cls(path), list[str]()
        for event in split_events(block):
            if has_data(event):
                prefix.events += 1
                prefix._add(event, pieces)
        prefix.text = "".join(pieces)
        return prefix

    def _add(self, event: bytes, pieces: list[str]) -> None:
        chunk = _chunk(extract_event_data(event))
        if chunk is None:
            self.plain = self.plain and is_done_event(event)
            return
        self.first = self.first or chunk
        self.usage = self.usage or bool(chunk.get("usage"))
        for choice in iter_choices(chunk):
            piece, plain = _piece(self.path, choice)
            self.plain = self.plain and plain
            self.finished = self.finished or bool(choice.get("finish_reason"))
            self.tokens += bool(piece)
            pieces.append(piece)

    @property
    def shown(self) -> bool:
        """A client has seen something of the answer itself."""
        return bool(self.text) or self.finished or not self.plain


def _chunk(data: bytes) -> dict[str, Any] | None:
    chunk = parse_event_data(data)
    return chunk if "choices" in chunk else None


def _piece(path: str, choice: dict[str, Any]) -> tuple[str, bool]:
    """A choice's text and whether it has nothing else (no tool call, no reasoning, no parts that
    are more than text).
    """
    delta = _delta(choice)
    text = (choice.get("text") if path == COMPLETIONS else delta.get("content")) or ""
    plain = choice.get("index") in (0, None) and isinstance(text, str)
    if path != COMPLETIONS:
        plain = plain and all(name in _PLAIN_DELTA or not value for name, value in delta.items())
    return text if isinstance(text, str) else "", plain


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    delta = choice.get("delta")
    return delta if isinstance(delta, dict) else {}


def can_continue(path: str, body: dict[str, Any], prefix: Prefix) -> bool:
    """Whether going on from the prefix gives what one run would have given."""
    faithful = (
        prefix.plain
        and not any(_set(name, body.get(name)) for name in _UNFAITHFUL)
        and (body.get("n") or 1) == 1
    )
    if not faithful or (body.get("best_of") or 1) != 1 or prefix.text[-1:].isspace():
        return False
    if path == COMPLETIONS:
        return isinstance(body.get("prompt"), str)
    return path == CHAT and (not body.get("continue_final_message") or _ends_in_text(body))


def _ends_in_text(body: dict[str, Any]) -> bool:
    """Whether the last message's content is one that a text can be put behind, not a list of
    parts.
    """
    return isinstance(body["messages"][-1].get("content"), str | None)


def _set(name: str, value: Any) -> bool:
    """Whether a member asks for something. A text completion's `logprobs: 0` does: the chosen
    tokens' own.
    """
    if name == "logprobs":
        return value is not None and value is not False
    neutral = 1 if name == "repetition_penalty" else 0
    return value not in (None, neutral, [], {}, "", {"type": "text"})


def budget_left(body: dict[str, Any], prefix: Prefix) -> int | None:
    """How many tokens may still come; None if there is no limit."""
    limits = _limits(body, prefix).values()
    return min(limits) - prefix.tokens if limits else None


def _limits(body: dict[str, Any], prefix: Prefix) -> dict[str, int]:
    """The members that limit the text; a longer completion than the API's own limit is of an
    upstream that has none.
    """
    limits = {name: body[name] for name in _LIMITS if isinstance(body.get(name), int)}
    unset = not limits and prefix.path == COMPLETIONS and prefix.tokens <= _COMPLETION_LIMIT
    return {"max_tokens": _COMPLETION_LIMIT} if unset else limits


def continued(path: str, body: dict[str, Any], prefix: Prefix) -> bytes:
    """The body that asks the upstream to go on from the prefix."""
    new = {**body, **dict.fromkeys(_limits(body, prefix), budget_left(body, prefix))}
    if path == COMPLETIONS:
        new["prompt"] = body["prompt"] + prefix.text
        return orjson.dumps(new)
    messages = list(body["messages"])
    if body.get("continue_final_message"):
        messages[-1] = {
            **messages[-1],
            "content": (messages[-1].get("content") or "") + prefix.text,
        }
    else:
        messages.append({"role": "assistant", "content": prefix.text})
    return orjson.dumps(
        {
            **new,
            "messages": messages,
            "continue_final_message": True,
            "add_generation_prompt": False,
        }
    )


class Joiner:
    """Makes the second half's events fit behind the first half's: one id, one role event, usage of
    the whole.
    """

    def __init__(self, prefix: Prefix, *, same_text: bool) -> None:
        self._prefix = prefix
        self._same: dict[str, Any] = {
            name: prefix.first[name] for name in ("id", "created") if name in prefix.first
        }
        self._carried = prefix.tokens if same_text else 0

    def join(self, block: bytes) -> bytes:
        return b"".join(map(self._event, split_events(block)))

    def _event(self, event: bytes) -> bytes:
        chunk = _chunk(extract_event_data(event)) if has_data(event) else None
        if chunk is None:
            return event
        if self._prefix.first and _is_role_only(chunk):
            return b""
        chunk.update(self._same)
        for choice in iter_choices(chunk):
            if self._prefix.first and isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if isinstance(chunk.get("usage"), dict):
            chunk["usage"] = self._whole(chunk["usage"])
        return encode_event(orjson.dumps(chunk))

    def _whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The text so far was prompt to the second run; to the client it is completion."""
        moved = {"prompt_tokens": -self._carried, "completion_tokens": self._carried}
        return {
            name: value + moved.get(name, 0) if isinstance(value, int) else value
            for name, value in usage.items()
        }


def _is_role_only(chunk: dict[str, Any]) -> bool:
    choices = list(iter_choices(chunk))
    return bool(choices) and all(_only_role(choice) for choice in choices)


def _only_role(choice: dict[str, Any]) -> bool:
    delta = _delta(choice)
    return (
        "role" in delta
        and set(delta) <= _PLAIN_DELTA
        and not delta.get("content")
        and not choice.get("finish_reason")
    )


def ending(path: str, body: dict[str, Any], prefix: Prefix) -> bytes:
    """The events that end a text whose budget is used up, or whose finish was sent and whose end
    was not.
    """
    events = [] if prefix.finished else [_chunk_of(path, prefix, [_finish(path)])]
    if (body.get("stream_options") or {}).get("include_usage") and not prefix.usage:
        prompt = (
            len(orjson.dumps(body.get("messages") or body.get("prompt") or "")) // 4
        )  # nobody is there to count it: an estimate
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": prefix.tokens,
            "total_tokens": prompt + prefix.tokens,
        }
        events.append({**_chunk_of(path, prefix, []), "usage": usage})
    return b"".join(encode_event(orjson.dumps(event)) for event in events) + DONE_EVENT


def _finish(path: str) -> dict[str, Any]:
    part: dict[str, Any] = {"text": ""} if path == COMPLETIONS else {"delta": {}}
    return {"index": 0, **part, "logprobs": None, "finish_reason": "length"}


def _chunk_of(path: str, prefix: Prefix, choices: list[dict[str, Any]]) -> dict[str, Any]:
    kept = {name: value for name, value in prefix.first.items() if name in _KEPT}
    return {**kept, "choices": choices}
