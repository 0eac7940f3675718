"""The demonstration model's reply in the API's four shapes: chat or text completion, whole or
streamed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import orjson

from app.openai_api.sse import DONE_EVENT


@dataclass(frozen=True)
class Choice:
    words: list[str]
    finish: str  # stop or length

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class Reply:
    """What is answered, before it is put into the shape of a chat or a text completion, whole or
    streamed.
    """

    id: str
    model: str
    chat: bool
    choices: list[Choice]
    prompt_tokens: int
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, choice in enumerate(self.choices):
            said = (
                {"message": {"role": "assistant", "content": choice.text}}
                if self.chat
                else {"text": choice.text}
            )
            choices.append(
                {"index": index, **said, "logprobs": None, "finish_reason": choice.finish}
            )
        return self._object("chat.completion", choices, usage=self._usage())

    def events(self) -> Iterator[bytes]:
        """The stream, an event a word; the choices take turns."""
        indexes = range(len(self.choices))
        if self.chat:
            for index in indexes:
                yield self._event(index, {"delta": {"role": "assistant", "content": ""}})
        for round_ in zip_longest(*(choice.words for choice in self.choices)):
            for index in indexes:
                if round_[index] is not None:
                    yield self._event(
                        index,
                        {"delta": {"content": round_[index]}}
                        if self.chat
                        else {"text": round_[index]},
                    )
        for index, choice in enumerate(self.choices):
            yield self._event(index, {"delta": {}} if self.chat else {"text": ""}, choice.finish)
        if self.include_usage:
            yield _sse(self._object("chat.completion.chunk", [], usage=self._usage()))
        yield DONE_EVENT

    def _event(self, index: int, part: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, **part, "logprobs": None, "finish_reason": finish}
        return _sse(self._object("chat.completion.chunk", [choice]))

    def _object(self, chat_kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = chat_kind if self.chat else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def _usage(self) -> dict[str, int]:
        completion = sum(len(choice.words) for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
