"""Parses and validates request bodies of the OpenAI API: the table of checks, one row per field.

Bytes pass through. So a check stands here only if routing, streaming or a feature of our own needs
the field, or if most upstreams answer a wrong one with a 5xx that tells the caller nothing. What an
upstream refuses well is left to it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from app.errors import BadRequest, InvalidBody
from app.openai_api.model_member import refuse_ambiguous_model
from app.process import collector_paused

ANY = "*"
_LARGE = 256 * 1024  # bytes
_MOST_SIGNS = 300_000  # a text with as many of them in it would be a million tokens
CHAT, COMPLETIONS, EMBEDDINGS, SPEECH = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/audio/speech",
)

_ABSENT: Any = ...  # not None: a null is something else than a field that is not there
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


class Body(NamedTuple):
    """What the gateway needs to know of a request's body."""

    model: str
    stream: bool


class Check(NamedTuple):
    """One row of the table: on `path`, `field` must pass `test`, for `reason`; not looked at if
    `unless` is there instead.
    """

    path: str
    field: str
    test: Callable[[Any, str], None]
    reason: str
    unless: str | None = None


def _refuse(value: Any, param: str, expected: str) -> None:
    if value is _ABSENT:
        raise BadRequest(f"{param} is missing: expected {expected}.", param=param)
    raise BadRequest(f"{param}: expected {expected}, got {_KINDS[type(value)]}.", param=param)


def _filled_text(value: Any, param: str) -> None:
    if type(value) is not str:
        _refuse(value, param, "a string")
    if not value:
        raise BadRequest(f"{param}: expected a string that is not empty.", param=param)


def _filled_array(value: Any, param: str) -> None:
    if type(value) is not list:
        _refuse(value, param, "an array")
    if not value:
        raise BadRequest(f"{param}: expected an array that is not empty.", param=param)


def _text_or_array(value: Any, param: str) -> None:
    if type(value) not in (str, list):
        _refuse(value, param, "a string or an array")


def _switch(value: Any, param: str) -> None:
    if value is not _ABSENT and value is not None and type(value) is not bool:
        _refuse(value, param, "a boolean")


def _options(value: Any, param: str) -> None:
    if value is _ABSENT or value is None:
        return
    if type(value) is not dict:
        _refuse(value, param, "an object")
    _switch(value.get("include_usage", _ABSENT), f"{param}.include_usage")


def _messages(value: Any, param: str) -> None:
    for index, message in enumerate(value):
        if type(message) is not dict:
            _refuse(message, f"{param}[{index}]", "an object")
        if type(message.get("role")) is not str:
            _refuse(message.get("role", _ABSENT), f"{param}[{index}].role", "a string")


CHECKS = (
    Check(
        ANY,
        "model",
        _filled_text,
        "names the topic; without it there is nowhere to send the request",
    ),
    Check(
        ANY,
        "stream",
        _switch,
        "decides whether the reply is written as one body or as server-sent events",
    ),
    Check(
        ANY,
        "stream_options",
        _options,
        "a continued stream's usage chunk is counted anew only if include_usage asked for it",
    ),
    Check(
        CHAT,
        "messages",
        _filled_array,
        "chat templates fail on an empty conversation, with a 5xx on several servers",
    ),
    Check(
        CHAT,
        "messages",
        _messages,
        "a text is continued as the last message; templates fail on one without a role",
    ),
    Check(
        COMPLETIONS,
        "prompt",
        _text_or_array,
        "a text is continued behind its prompt",
        unless="prompt_embeds",
    ),
    Check(
        EMBEDDINGS,
        "input",
        _text_or_array,
        "its absence is a 5xx with several servers",
        unless="messages",
    ),
)

_BY_PATH = {
    path: tuple(row for row in CHECKS if row.path in (ANY, path))
    for path in (ANY, CHAT, COMPLETIONS, EMBEDDINGS)
}


def check_body(path: str, body: bytes) -> Body:
    """Parse a request's body and apply the table's rows for `path` (below the API's root:
    /chat/completions).

    Raises InvalidBody if it is not a JSON object, else BadRequest with the place as `param`
    (`messages[0].role`). A body that names its model more than once is refused.
    """
    document = _parse(body)
    for row in _BY_PATH.get(path) or _BY_PATH[ANY]:
        if row.unless not in document:
            row.test(document.get(row.field, _ABSENT), row.field)
    refuse_ambiguous_model(document, body)
    return Body(
        document["model"],
        document.get("stream") is True
        or (path == SPEECH and document.get("stream_format") == "sse"),
    )


def is_text(content_type: str) -> bool:
    """Whether a reply is JSON or another text, as one without a type is: what names a model and its
    usage.
    """
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.startswith("text/") or "json" in kind


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except orjson.JSONDecodeError as error:
        raise InvalidBody(_fault(error, body)) from None
    if type(document) is not dict:
        raise InvalidBody(f"The body must be a JSON object, not {_KINDS[type(document)]}.")
    return document


def parse_json(body: bytes) -> Any:
    """Parse JSON in bounded time. Raises orjson.JSONDecodeError, and InvalidBody for too many
    members.

    16 MiB of empty arrays held the event loop for 1.5 s.
    """
    if len(body) < _LARGE:
        return orjson.loads(body)
    if sum(body.count(sign) for sign in (b"{", b"[", b'":')) > _MOST_SIGNS:
        raise InvalidBody(f"The body has more than {_MOST_SIGNS} objects, arrays and members.")
    with collector_paused():
        return orjson.loads(body)


def _fault(error: orjson.JSONDecodeError, body: bytes) -> str:
    """What is wrong with a body that does not parse, and where; nothing of the body itself."""
    if not body or body.isspace():
        return "The body is empty; expected a JSON object."
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return f"The body is not valid JSON: it is not UTF-8 at byte {fault.start}."
    return f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
