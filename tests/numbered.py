"""What the simulated upstream says: tokens with numbers, " tok0", " tok1", ..., so that a reader
sees a doubled or a missing one.

A request to go on from a text (`continue_final_message`, or a completion's prompt that ends so)
goes on behind its last " tokN".
"""

import array
import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
CREATED = 1_700_000_000  # the same in every reply, so that replies can be compared
# Texts that look like the framing of a stream, for tokens of requests with `x_odd`.
ODD = (
    "data: [DONE]",
    "[DONE]",
    '"finish_reason":"stop"',
    '{"error":{"message":"x"}}',
    '{"type":"message_stop"}',
    '"usage":{}',
)
_LAST_TOKEN = re.compile(rf" tok(\d+)(?:{'|'.join(map(re.escape, ODD))})?\Z")


def token_text(number: int, *, odd: bool = False) -> str:
    """Return the text of one token."""
    return f" tok{number}{ODD[number % len(ODD)] if odd else ''}"


def tokens(count: int, first: int = 0, *, odd: bool = False) -> str:
    """Return the text that `count` tokens from number `first` on make."""
    return "".join(token_text(number, odd=odd) for number in range(first, first + count))


def sse(event: Any) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


@dataclass(frozen=True)
class Generation:
    """One reply to a chat or a text completion, before it is put into a shape."""

    id: str
    model: str
    chat: bool
    first: int  # number of the first token
    count: int
    finish: str
    prompt_tokens: int
    odd: bool = False

    @classmethod
    def of(cls, id_: str, path: str, body: dict[str, Any], natural: int) -> "Generation":
        """`natural` tokens where the request sets no limit."""
        chat = path.endswith("/chat/completions")
        prompt = _texts(body["messages"]) if chat else [str(body["prompt"])]
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        return cls(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{id_}",
            model=body["model"],
            chat=chat,
            first=_goes_on_from(prompt[-1])
            if not chat or body.get("continue_final_message") is True
            else 0,
            count=limit or natural,
            finish="length" if limit else "stop",
            prompt_tokens=sum(map(_count_tokens, prompt)),
            odd=body.get("x_odd") is True,
        )

    def whole(self) -> dict[str, Any]:
        text = tokens(self.count, self.first, odd=self.odd)
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        )
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self.finish}
        return self._object("chat.completion", [choice], usage=self.usage())

    def opening(self) -> bytes:
        """The role event of a chat; a text completion has none."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self.chat else b""

    def token(self, index: int) -> bytes:
        text = token_text(self.first + index, odd=self.odd)
        return self._event({"delta": {"content": text}} if self.chat else {"text": text})

    def closing(self, include_usage: bool) -> bytes:
        """The finish event, the usage where it is asked for, [DONE]."""
        finish = self._event({"delta": {}} if self.chat else {"text": ""}, self.finish)
        usage = (
            sse(self._object("chat.completion.chunk", [], usage=self.usage()))
            if include_usage
            else b""
        )
        return finish + usage + DONE

    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.count
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.count,
            "total_tokens": total,
        }

    def _event(self, part: dict[str, Any], finish: str | None = None) -> bytes:
        # an odd text ends the event
        choice = {"index": 0, "logprobs": None, "finish_reason": finish, **part}
        return sse(self._object("chat.completion.chunk", [choice]))

    def _object(self, chat_kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = chat_kind if self.chat else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "choices": choices,
            **more,
        }


def _texts(messages: list[dict[str, Any]]) -> list[str]:
    return [
        content if isinstance(content := message.get("content"), str) else ""
        for message in messages
    ]


def _count_tokens(text: str) -> int:
    """Return how many tokens a text has: its words, but the space in an odd text parts none."""
    return len(text.replace("data: [DONE]", "data:[DONE]").split())


def _goes_on_from(text: str) -> int:
    found = _LAST_TOKEN.search(text)
    return int(found[1]) + 1 if found else 0


def embeddings(body: dict[str, Any], dimensions: int = 64) -> dict[str, Any]:
    """A vector for each input, in the encoding that is asked for; the same input number has always
    the same vector.
    """
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors = [vector(number, dimensions) for number in range(len(inputs))]
    as_text = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": base64.b64encode(array.array("f", values).tobytes()).decode()
            if as_text
            else values,
        }
        for number, values in enumerate(vectors)
    ]
    usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def vector(number: int, dimensions: int = 64) -> list[float]:
    """The vector of an input; its values are exact in 32 bits."""
    return [((number * 31 + place * 7) % 4096) / 4096 for place in range(dimensions)]


def rerank(body: dict[str, Any]) -> dict[str, Any]:
    """The documents in reverse order, the last the most relevant."""
    documents = body["documents"]
    results = [
        {
            "index": index,
            "document": {"text": documents[index]},
            "relevance_score": (index + 1) / len(documents),
        }
        for index in reversed(range(len(documents)))
    ]
    return {"id": "rerank-0", "model": body["model"], "results": results}


def tokenize(body: dict[str, Any]) -> dict[str, Any]:
    words = str(body["prompt"]).split()
    return {"count": len(words), "max_model_len": 4096, "tokens": list(range(len(words)))}


def file(name: str, content: bytes) -> str:
    """What a transcription says of a file."""
    return f"{name}: {len(content)} bytes, {hashlib.sha256(content).hexdigest()}"


def sound(text: str) -> bytes:
    """Speech: all bytes that there are, more than a reply record holds."""
    return bytes(range(256)) * 3000 + text.encode()


def response_events(body: dict[str, Any], count: int) -> list[bytes]:
    """A streamed /responses reply: events with an `event:` line, no [DONE]."""
    frame = {
        "id": "resp_0",
        "object": "response",
        "created_at": CREATED,
        "model": body["model"],
        "output": [],
    }
    parts = [{"type": "response.created", "response": {**frame, "status": "in_progress"}}]
    place = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    parts += [
        {"type": "response.output_text.delta", **place, "delta": tokens(1, number)}
        for number in range(count)
    ]
    parts += [{"type": "response.completed", "response": {**frame, "status": "completed"}}]
    return [
        b"event: " + str(part["type"]).encode() + b"\n" + sse({**part, "sequence_number": number})
        for number, part in enumerate(parts)
    ]
