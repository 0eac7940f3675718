"""Requests that many acceptance tests send, and how they read the replies."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


def chat(model: str = "sim", **fields: Any) -> dict[str, Any]:
    """A chat's body; `fields` are further members of it."""
    return {"model": model, "messages": HELLO, **fields}


async def text_of(stream: AsyncIterator[Any]) -> str:
    """The text of a chat that the SDK streams."""
    return "".join(
        [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    )


def events(body: bytes) -> list[Any]:
    """The data of each server-sent event: the JSON document, or the text [DONE]."""
    data = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
    return ["[DONE]" if text == b"[DONE]" else orjson.loads(text) for text in data]


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The OpenAI error in a reply, whole and with nothing beside it."""
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = document["error"]
    return error
