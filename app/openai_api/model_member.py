"""The model's name in JSON bodies: found, replaced, and refused where readers could disagree on it.

Works on bytes, so no other byte of a body changes. Time and memory are linear in its size.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product
from typing import Any

import orjson

from app.errors import BadRequest

_MODEL_KEY = b'"model"'
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# A member's name that reads as `model`: in any case, and with any letter escaped (RFC 8259, section
# 7).
_ANY_MODEL_KEY = (
    rb'"(?i:(?:m|\\u00[46]d)(?:o|\\u00[46]f)(?:d|\\u00[46]4)(?:e|\\u00[46]5)(?:l|\\u00[46]c))"\s*+:'
)
_STRING_VALUE = re.compile(rb"\s*+:\s*+(" + _STRING + rb")", re.DOTALL)
# One match for each bracket and each such name: all that lies between them is passed over within
# the match.
_TOKEN = re.compile(
    rb'(?:[^{}\[\]"]++|(?!%b)%b)*+(?:[{}\[\]]|(?P<key>%b)\s*+(?P<value>%b)?)'
    % (_ANY_MODEL_KEY, _STRING, _ANY_MODEL_KEY, _STRING),
    re.DOTALL,
)
_OTHER_SPELLINGS = frozenset(map("".join, product("mM", "oO", "dD", "eE", "lL"))) - {"model"}


def refuse_ambiguous_model(document: dict[str, Any], body: bytes) -> None:
    """Raise BadRequest where two readers of a body could find two models in it.

    Some take the first of two members of one name, some the last, and some ignore the case of names
    (Go's encoding/json). A key's list of models would be checked against another one than is run.
    """
    if not _OTHER_SPELLINGS.isdisjoint(document):
        raise BadRequest(
            "model: the body also has a member whose name differs only in case.", param="model"
        )
    if _can_repeat_model(body) and len(list(islice(_find_top_level_models(body), 2))) > 1:
        raise BadRequest("model: the body has it more than once.", param="model")


def _can_repeat_model(body: bytes) -> bool:
    """Return whether the name occurs twice at any depth, or may occur with escaped letters."""
    return body.count(_MODEL_KEY) > 1 or rb"\u006" in body


def replace_request_model(body: bytes, old_name: str, new_name: str) -> bytes:
    """Return the request body with `new_name` as its top-level model where it was `old_name`; no
    other byte differs.

    `body` has passed `check_body`, here or at a gateway of an earlier version, which let a repeated
    member pass. Time and memory are linear in its size. Models named deeper inside are left alone.
    """
    value = orjson.dumps(new_name)
    parts: list[bytes] = []
    copied_to = 0
    for start, end in _find_model_spans(body, old_name):
        parts += (body[copied_to:start], value)
        copied_to = end
    return b"".join((*parts, body[copied_to:]))


def _find_model_spans(body: bytes, old_name: str) -> Iterator[tuple[int, int]]:
    """Return where the top-level model's value lies, in ascending order, in bytes."""
    if not _can_repeat_model(body):  # so its one occurrence is the top-level one
        match = _STRING_VALUE.match(body, body.find(_MODEL_KEY) + len(_MODEL_KEY))
        if match and orjson.loads(match[1]) == old_name:
            yield match.span(1)
        return
    for token in _find_top_level_models(body):
        if token["value"] and orjson.loads(token["value"]) == old_name:
            yield token.span("value")


def _find_top_level_models(body: bytes) -> Iterator[re.Match[bytes]]:
    """Return the top-level members of a JSON object whose name reads as `model`."""
    depth = 0
    for token in _TOKEN.finditer(body):
        if token["key"] is None:
            depth += 1 if body[token.end() - 1] in b"{[" else -1
        elif depth == 1:
            yield token


def replace_reply_model(block: bytes, old_name: str, new_name: str) -> bytes:
    """A whole reply, or a block of whole events, with its `model` members of value `old_name` named
    `new_name`, at every depth.

    Text that a model wrote is not touched: there the quotes are escaped, so the member cannot
    occur.
    """
    for member, renamed in _member_replacements(old_name, new_name):
        block = block.replace(member, renamed)
    return block


@lru_cache(maxsize=256)
def _member_replacements(old_name: str, new_name: str) -> tuple[tuple[bytes, bytes], ...]:
    """The member in each way that servers write it: with and without a space, non-ASCII plain and
    escaped.
    """
    forms = {json.dumps(old_name).encode(), orjson.dumps(old_name)}
    return tuple(
        (_MODEL_KEY + colon + form, _MODEL_KEY + colon + orjson.dumps(new_name))
        for colon in (b":", b": ")
        for form in sorted(forms)
    )
