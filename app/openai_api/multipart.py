"""Forms (multipart/form-data, RFC 7578), as OpenAI's API takes audio and images: what is read of
them, and their model's name.

Bytes pass through, as those of JSON bodies do: a form is looked at where it lies, and only its
model's name is ever changed.
"""

import logging
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from app.errors import BadRequest, InvalidForm, UnsupportedMedia
from app.openai_api.bodies import CHAT, COMPLETIONS, EMBEDDINGS, ParsedBody

# it warns of each bad form, with a character of it
logging.getLogger("python_multipart").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 128  # the parser needs 2 us for each delimiter: 16 MiB of them were 4 s
_JSON_ONLY_PATHS = (CHAT, COMPLETIONS, EMBEDDINGS)
_BOOLEAN_VALUES = {b"true": True, b"false": False, b"1": True, b"0": False, b"": False}
_READ_FIELDS = (b"model", b"stream")
# RFC 9110, section 5.6.6; of a quoted value any bytes, as clients write any into a file's name.
_PARAMETER_NAME = rb'[^\x00-\x20=;"]++'
_PARAMETER_VALUE = rb'"(?:[^"\\\x00-\x1f\x7f]|\\.)*+"|[^\x00-\x20;"]*+'
_PARAMETER = re.compile(rb";[ \t]*+(%b)=(%b)[ \t]*+" % (_PARAMETER_NAME, _PARAMETER_VALUE))
_HEADER_VALUE = re.compile(
    rb"([^\x00-\x20;]++)[ \t]*+((?:;[ \t]*+%b=(?:%b)[ \t]*+)*+);?[ \t]*+"
    % (_PARAMETER_NAME, _PARAMETER_VALUE)
)


class FormField(NamedTuple):
    """A part of a form, and where in the body its value lies, bytes."""

    name: bytes
    start: int
    end: int
    is_file: bool


def check_form(path: str, content_type: str, body: bytes) -> ParsedBody:
    """Read model and stream from a form.

    Raises UnsupportedMedia where OpenAI's endpoint takes JSON alone, InvalidForm, and BadRequest
    where a field is missing, wrong, or such that servers could read it in different ways.
    """
    if path in _JSON_ONLY_PATHS:
        raise UnsupportedMedia("this endpoint takes JSON, no form")
    fields = _parse_form(content_type, body)
    for field in fields:
        _refuse_ambiguous_field(field)
    model, stream = (_read_single_field(name, fields, body) for name in _READ_FIELDS)
    if not model:
        raise BadRequest(
            "model is missing: expected a part of the form that names a model.", param="model"
        )
    if stream.lower() not in _BOOLEAN_VALUES:
        raise BadRequest("stream: expected true or false.", param="stream")
    try:
        return ParsedBody(model.decode(), _BOOLEAN_VALUES[stream.lower()])
    except UnicodeDecodeError:
        raise BadRequest("model: expected UTF-8.", param="model") from None


def replace_form_model(content_type: str, body: bytes, new_name: str) -> bytes:
    """Return the form with `new_name` as its model and no other byte changed; one that `check_form`
    let pass.
    """
    (model,) = [field for field in _parse_form(content_type, body) if field.name == b"model"]
    return body[: model.start] + new_name.encode() + body[model.end :]


def strip_boundary(content_type: str, body: bytes) -> bytes:
    """Return what stays the same where a client sends the same form again: it makes up a new
    boundary each time.
    """
    return body.replace(b"--" + _parse_boundary(content_type), b"--")


def _read_single_field(name: bytes, fields: list[FormField], body: bytes) -> bytes:
    values = [body[field.start : field.end] for field in fields if field.name == name]
    if len(values) > 1:
        raise BadRequest(f"{name.decode()}: the form has it more than once.", param=name.decode())
    return values[0] if values else b""


def _refuse_ambiguous_field(field: FormField) -> None:
    """Raise BadRequest for a part that some servers take for a field that is read here, and others
    do not.
    """
    normalized_name = unquote_to_bytes(field.name.replace(b"\\", b"")).strip().lower()
    if normalized_name in _READ_FIELDS and (field.is_file or field.name != normalized_name):
        name = normalized_name.decode()
        raise BadRequest(
            f"{name}: expected a part with this very name, and without a file's.", param=name
        )


def _parse_boundary(content_type: str) -> bytes:
    media_type, parameters = _parse_header(content_type.encode("latin-1", "replace"))
    if media_type != b"multipart/form-data":
        raise UnsupportedMedia("a form is multipart/form-data")
    boundary = _get_parameter(b"boundary", parameters)
    if not boundary:
        raise InvalidForm("The body is a form, and its Content-Type names no boundary, or several.")
    return boundary


def _parse_header(value: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return a header's value, in lower case, and its parameters. Raises InvalidForm."""
    match = _HEADER_VALUE.fullmatch(value)
    if match is None:
        raise InvalidForm(
            "The body is not a valid form: the parameters of one of its headers cannot be read."
        )
    return match[1].lower(), [(name.lower(), value) for name, value in _PARAMETER.findall(match[2])]


def _get_parameter(name: bytes, parameters: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return a parameter's value without its quotes; None if it is absent or could be read in two
    ways.

    RFC 7578, section 4.2, rules the extended notation out (`name*=`), and yet some servers prefer
    it.
    """
    matches = [(key, value) for key, value in parameters if key.partition(b"*")[0] == name]
    if len(matches) != 1 or matches[0][0] != name:
        return None
    return matches[0][1].removeprefix(b'"').removesuffix(b'"')


def _parse_form(content_type: str, body: bytes) -> list[FormField]:
    """Return the parts. Raises InvalidForm, UnsupportedMedia.

    The parser gets the whole body at once, so that its positions are positions in the body. A
    boundary within a part is refused (RFC 2046, section 5.1.1): some servers take it for a
    delimiter even behind a bare line feed, and then see other parts than are seen here.
    """
    boundary = _parse_boundary(content_type)
    delimiters = body.count(b"--" + boundary)
    if delimiters > _MAX_PARTS + 1:
        raise InvalidForm(f"The form has more than {_MAX_PARTS} parts.")
    form = _FormCollector()
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        raise InvalidForm(
            f"The body is not a valid form, at byte {getattr(error, 'offset', 0)}."
        ) from None
    if not form.is_complete:
        raise InvalidForm(
            "The body is not a valid form: it has no end, or not the boundary that "
            "Content-Type names."
        )
    if delimiters != len(form.fields) + 1:
        raise InvalidForm(
            "The body is not a valid form: its boundary also stands within a part, or "
            "behind the end."
        )
    return form.fields


class _FormCollector:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.fields: list[FormField] = []
        self.is_complete = False
        self._header_name = b""
        self._dispositions: list[bytes] = []  # of the current part
        self._value_span = (0, 0)  # of its value

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._set_header_name,
            "on_header_value": self._add_header_value,
            "on_part_data": self._set_value_span,
            "on_part_end": self._end_part,
            "on_end": self._finish_form,
        }

    def _begin_part(self) -> None:
        self._dispositions, self._value_span = [], (0, 0)

    def _set_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name = data[start:end].lower()

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header_name == b"content-disposition":
            self._dispositions.append(data[start:end])

    def _set_value_span(self, _body: bytes, start: int, end: int) -> None:
        self._value_span = (start, end)

    def _end_part(self) -> None:
        if len(self._dispositions) != 1:
            raise InvalidForm(
                "The body is not a valid form: a part has no Content-Disposition, or several."
            )
        kind, parameters = _parse_header(self._dispositions[0])
        name = _get_parameter(b"name", parameters)
        if kind != b"form-data" or name is None:
            raise InvalidForm("The body is not a valid form: a part has no name, or several.")
        is_file = any(key.startswith(b"filename") for key, _ in parameters)
        self.fields.append(FormField(name, *self._value_span, is_file))

    def _finish_form(self) -> None:
        self.is_complete = True
