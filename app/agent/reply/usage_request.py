"""Usage that the worker asks a stream's upstream for, where its client did not, and takes out of
the reply again. Pure.

https://platform.openai.com/docs/api-reference/chat/create#chat-create-stream_options : the upstream
then sends a chunk more, with the usage and no choice, and some of them a `usage: null` in each of
the others.
"""

import re
from typing import Any

import orjson

from app.openai_api.endpoints import iter_choices, parse_event_data
from app.openai_api.sse import encode_event, extract_event_data, split_events

_OPTIONS, _ASKED = b'"stream_options"', b'"include_usage":true'
_WHOLE = b"{" + _OPTIONS + b":{" + _ASKED + b"},"
_EMPTY = re.compile(rb"\A(\s*:\s*)(?:null|\{\s*\})")
_SWITCH = re.compile(rb'("include_usage"\s*:\s*)(?:false|null)')
# in a text the quotes are escaped
_NULLS = (b',"usage":null', b', "usage": null', b'"usage":null,', b'"usage": null, ')
_OF_INTEREST = re.compile(rb'"usage"|"finish_reason":\s*"')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# What every chunk of a stream has, so that it says nothing new beside the usage.
_OF_EVERY_CHUNK = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "service_tier",
        "provider",
        "obfuscation",
        "choices",
        "usage",
    }
)
_REFUSALS = frozenset({400, 422})


def asking(body: bytes) -> bytes | None:
    """The body with `include_usage`, and not another byte changed; None where the client asks
    itself.
    """
    if _OPTIONS not in body:
        return body.replace(b"{", _WHOLE, 1)
    document = orjson.loads(body)
    options = document.get("stream_options") or {}
    if not isinstance(options, dict) or options.get("include_usage"):
        return None
    if body.count(_OPTIONS) > 1:  # which of several it is, only a parser could say
        return None
    if "stream_options" not in document:
        return body.replace(b"{", _WHOLE, 1)
    before, member, value = body.partition(_OPTIONS)
    return before + member + _with_switch(value, options)


def _with_switch(value: bytes, options: dict[str, object]) -> bytes:
    """What stands behind the member's name, with the switch turned on in it."""
    if "include_usage" in options:
        return _SWITCH.sub(rb"\1true", value, count=1)
    if options:
        return value.replace(b"{", b"{" + _ASKED + b",", 1)
    return _EMPTY.sub(rb"\1{" + _ASKED + b"}", value, count=1)


class UsageStripper:
    """Takes the usage that the worker asked for out of a stream, which is then as it would have
    come unasked.

    A chunk that has nothing but the usage is dropped. llama.cpp puts `timings` into its last chunk,
    and that is the one with the usage only where usage was asked for: such members go back into the
    chunk that has the finish reason, which is held until the next event shows whether there are
    any.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""  # the event with the finish reason

    def strip(self, block: bytes) -> bytes:
        """Return what may go out now of a block of whole events."""
        if _OF_INTEREST.search(block) is None and not self._held:
            return block
        for null in _NULLS:
            block = block.replace(null, b"")
        found = _OF_INTEREST.search(block)
        if self._held or found is None:
            return self._strip_events(block) if self._held else block
        # 1 without one: what is before has no event's end
        begin = block.rfind(b"\n\n", 0, found.start()) + 2
        return (
            block[:begin] + self._strip_events(block[begin:])
            if begin > 1
            else self._strip_events(block)
        )

    def _strip_events(self, block: bytes) -> bytes:
        out: list[bytes] = []
        for event in split_events(block):
            self._strip_event(event, out)
        return b"".join(out)

    def release(self) -> bytes:
        """Return the event that was held."""
        held, self._held = self._held, b""
        return held

    def _strip_event(self, event: bytes, out: list[bytes]) -> None:
        chunk = parse_event_data(extract_event_data(event)) if _OF_INTEREST.search(event) else {}
        if _is_only_usage(event, chunk):
            others = {name: value for name, value in chunk.items() if name not in _OF_EVERY_CHUNK}
            if others and self._held:
                self._held = _with_members(self._held, others)
            elif others:
                out.append(_without_member(event, chunk))
            return
        out.append(self.release())
        if any(choice.get("finish_reason") for choice in iter_choices(chunk)):
            self._held = event
        else:
            out.append(event)


def _is_only_usage(event: bytes, chunk: dict[str, Any]) -> bool:
    """Whether an event is the chunk that was asked for, whatever its usage is; `chunk` is empty
    where it is no JSON (`NaN`).
    """
    if chunk:
        return chunk.get("choices") == [] and "usage" in chunk
    data = extract_event_data(event)
    return b'"usage"' in data and _NO_CHOICES.search(data) is not None


def _with_members(event: bytes, members: dict[str, Any]) -> bytes:
    """Return a chunk's event with these members behind its own."""
    head, brace, tail = event.rpartition(b"}")
    return head + b"," + orjson.dumps(members)[1:-1] + brace + tail


def _without_member(event: bytes, chunk: dict[str, Any]) -> bytes:
    """Return a chunk's event without its usage."""
    return encode_event(
        orjson.dumps({name: value for name, value in chunk.items() if name != "usage"})
    )


def refuses(status: int, body: bytes) -> bool:
    """Whether an upstream's error is about our asking."""
    return status in _REFUSALS and (b"stream_options" in body or b"include_usage" in body)
