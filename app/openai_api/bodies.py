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
from app.process import garbage_collector_paused

ANY_PATH = "*"
_LARGE_BODY_BYTES = 256 * 1024  # bytes
_MAX_JSON_MEMBERS = 300_000  # a text with as many of them in it would be a million tokens
CHAT, COMPLETIONS, EMBEDDINGS, SPEECH = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/audio/speech",
)

_ABSENT: Any = ...  # not None: a null is something else than a field that is not there
_JSON_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


class ParsedBody(NamedTuple):
    """The fields of a request body that the gateway uses."""

    model: str
    stream: bool


class Check(NamedTuple):
    """One row of the table: on `path`, `field` must pass `validate`, for `reason`; not looked at if
    `unless_field` is there instead.
    """

    path: str
    field: str
    validate: Callable[[Any, str], None]
    reason: str
    unless_field: str | None = None


def _raise_bad_field(value: Any, param: str, expected: str) -> None:
    if value is _ABSENT:
        raise BadRequest(f"{param} is missing: expected {expected}.", param=param)
    raise BadRequest(
        f"{param}: expected {expected}, got {_JSON_TYPE_NAMES[type(value)]}.", param=param
    )


def _require_nonempty_string(value: Any, param: str) -> None:
    if type(value) is not str:
        _raise_bad_field(value, param, "a string")
    if not value:
        raise BadRequest(f"{param}: expected a string that is not empty.", param=param)


def _require_nonempty_array(value: Any, param: str) -> None:
    if type(value) is not list:
        _raise_bad_field(value, param, "an array")
    if not value:
        raise BadRequest(f"{param}: expected an array that is not empty.", param=param)


def _require_string_or_array(value: Any, param: str) -> None:
    if type(value) not in (str, list):
        _raise_bad_field(value, param, "a string or an array")


def _check_optional_boolean(value: Any, param: str) -> None:
    if value is not _ABSENT and value is not None and type(value) is not bool:
        _raise_bad_field(value, param, "a boolean")


def _check_stream_options(value: Any, param: str) -> None:
    if value is _ABSENT or value is None:
        return
    if type(value) is not dict:
        _raise_bad_field(value, param, "an object")
    _check_optional_boolean(value.get("include_usage", _ABSENT), f"{param}.include_usage")


def _check_messages(value: Any, param: str) -> None:
    for index, message in enumerate(value):
        if type(message) is not dict:
            _raise_bad_field(message, f"{param}[{index}]", "an object")
        if type(message.get("role")) is not str:
            _raise_bad_field(message.get("role", _ABSENT), f"{param}[{index}].role", "a string")


CHECKS = (
    Check(
        ANY_PATH,
        "model",
        _require_nonempty_string,
        "names the topic; without it there is nowhere to send the request",
    ),
    Check(
        ANY_PATH,
        "stream",
        _check_optional_boolean,
        "decides whether the reply is written as one body or as server-sent events",
    ),
    Check(
        ANY_PATH,
        "stream_options",
        _check_stream_options,
        "a continued stream's usage chunk is counted anew only if include_usage asked for it",
    ),
    Check(
        CHAT,
        "messages",
        _require_nonempty_array,
        "chat templates fail on an empty conversation, with a 5xx on several servers",
    ),
    Check(
        CHAT,
        "messages",
        _check_messages,
        "a text is continued as the last message; templates fail on one without a role",
    ),
    Check(
        COMPLETIONS,
        "prompt",
        _require_string_or_array,
        "a text is continued behind its prompt",
        unless_field="prompt_embeds",
    ),
    Check(
        EMBEDDINGS,
        "input",
        _require_string_or_array,
        "its absence is a 5xx with several servers",
        unless_field="messages",
    ),
)

_CHECKS_BY_PATH = {
    path: tuple(row for row in CHECKS if row.path in (ANY_PATH, path))
    for path in (ANY_PATH, CHAT, COMPLETIONS, EMBEDDINGS)
}


def check_body(path: str, body: bytes) -> ParsedBody:
    """Parse a request's body and apply the table's rows for `path` (below the API's root:
    /chat/completions).

    Raises InvalidBody if it is not a JSON object, else BadRequest with the place as `param`
    (`messages[0].role`). A body that names its model more than once is refused.
    """
    document = _parse_object(body)
    for row in _CHECKS_BY_PATH.get(path) or _CHECKS_BY_PATH[ANY_PATH]:
        if row.unless_field not in document:
            row.validate(document.get(row.field, _ABSENT), row.field)
    refuse_ambiguous_model(document, body)
    return ParsedBody(
        document["model"],
        document.get("stream") is True
        or (path == SPEECH and document.get("stream_format") == "sse"),
    )


def is_text_content_type(content_type: str) -> bool:
    """Whether a reply is JSON or another text, as one without a type is: what names a model and its
    usage.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return not media_type or media_type.startswith("text/") or "json" in media_type


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except orjson.JSONDecodeError as error:
        raise InvalidBody(_describe_parse_error(error, body)) from None
    if type(document) is not dict:
        raise InvalidBody(
            f"The body must be a JSON object, not {_JSON_TYPE_NAMES[type(document)]}."
        )
    return document


def parse_json(body: bytes) -> Any:
    """Parse JSON in bounded time. Raises orjson.JSONDecodeError, and InvalidBody for too many
    members.

    16 MiB of empty arrays held the event loop for 1.5 s.
    """
    if len(body) < _LARGE_BODY_BYTES:
        return orjson.loads(body)
    if sum(body.count(sign) for sign in (b"{", b"[", b'":')) > _MAX_JSON_MEMBERS:
        raise InvalidBody(
            f"The body has more than {_MAX_JSON_MEMBERS} objects, arrays and members."
        )
    with garbage_collector_paused():
        return orjson.loads(body)


def _describe_parse_error(error: orjson.JSONDecodeError, body: bytes) -> str:
    """What is wrong with a body that does not parse, and where; nothing of the body itself."""
    if not body or body.isspace():
        return "The body is empty; expected a JSON object."
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return f"The body is not valid JSON: it is not UTF-8 at byte {fault.start}."
    return f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
