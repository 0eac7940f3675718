"""Usage that the worker asks a stream's upstream for, where its client did not, and takes out of the reply again. Pure.

https://platform.openai.com/docs/api-reference/chat/create#chat-create-stream_options : the upstream then sends a chunk more, with
the usage and no choice, and some of them a `usage: null` in each of the others.
"""

import re

import orjson

from app.contracts.sse import data_of, has_data, split_events

USAGE = b'"usage"'  # a block without it has nothing to take out

_OPTIONS, _ASKED = b'"stream_options"', b'"include_usage":true'
_WHOLE = b"{" + _OPTIONS + b":{" + _ASKED + b"},"
_EMPTY = re.compile(rb"\A(\s*:\s*)(?:null|\{\s*\})")
_SWITCH = re.compile(rb'("include_usage"\s*:\s*)(?:false|null)')
_NULLS = (b',"usage":null', b', "usage": null', b'"usage":null,', b'"usage": null, ')  # in a text the quotes are escaped
_NO_CHOICE = re.compile(rb'"choices":\s*\[\s*\]')
_REFUSALS = frozenset({400, 422})


def asking(body: bytes) -> bytes | None:
    """The body with `include_usage`, and not another byte changed; None where the client asks itself."""
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


def without_usage(block: bytes) -> bytes:
    """A block of whole events as it would have come unasked."""
    for null in _NULLS:
        block = block.replace(null, b"")
    if USAGE not in block or not _NO_CHOICE.search(block):
        return block
    return b"".join(event for event in split_events(block) if not _is_usage(event))


def _is_usage(event: bytes) -> bool:
    if USAGE not in event or not has_data(event):
        return False
    try:
        chunk = orjson.loads(data_of(event))
    except orjson.JSONDecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def refuses(status: int, body: bytes) -> bool:
    """Whether an upstream's error is about our asking."""
    return status in _REFUSALS and (b"stream_options" in body or b"include_usage" in body)
