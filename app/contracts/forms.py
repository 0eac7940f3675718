"""Forms (multipart/form-data, RFC 7578), as OpenAI's API takes audio and images: what is read of them, and their model's name.

Bytes pass through, as those of JSON bodies do: a form is looked at where it lies, and only its model's name is ever changed.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.contracts.openai import CHAT, COMPLETIONS, EMBEDDINGS, Body
from app.errors import BadRequest, InvalidForm, UnsupportedMedia

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each bad form, with a character of it

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_PARTS = 128  # what looks like a part's end and is none costs 2 us of the event loop's time: 16 MiB of them were 4 s
_TAKE_JSON = (CHAT, COMPLETIONS, EMBEDDINGS)
_SWITCH = {b"true": True, b"false": False, b"1": True, b"0": False, b"": False}


class Field(NamedTuple):
    """A part of a form, and where in the body its value lies, bytes."""

    name: str
    start: int
    end: int


def check_form(path: str, content_type: str, body: bytes) -> Body:
    """As `check_body`, of a form. Raises UnsupportedMedia where OpenAI's endpoint takes JSON alone, InvalidForm, BadRequest."""
    if path in _TAKE_JSON:
        raise UnsupportedMedia("this endpoint takes JSON, no form")
    fields = _fields(content_type, body)
    model, stream = (_only(name, fields, body) for name in ("model", "stream"))
    if not model:
        raise BadRequest("model is missing: expected a part of the form that names a model.", param="model")
    if stream.lower() not in _SWITCH:
        raise BadRequest("stream: expected true or false.", param="stream")
    try:
        return Body(model.decode(), _SWITCH[stream.lower()])
    except UnicodeDecodeError:
        raise BadRequest("model: expected UTF-8.", param="model") from None


def form_with_model(content_type: str, body: bytes, new: str) -> bytes:
    """The form with `new` as its model, and not another byte changed; one that `check_form` let pass."""
    (model,) = [field for field in _fields(content_type, body) if field.name == "model"]
    return body[: model.start] + new.encode() + body[model.end :]


def without_boundary(content_type: str, body: bytes) -> bytes:
    """What stays the same where a client sends the same form again: it makes up a new boundary each time."""
    return body.replace(b"--" + _boundary(content_type), b"--")


def _only(name: str, fields: list[Field], body: bytes) -> bytes:
    values = [body[field.start : field.end] for field in fields if field.name == name]
    if len(values) > 1:
        raise BadRequest(f"{name}: the form has it more than once.", param=name)
    return values[0] if values else b""


def _boundary(content_type: str) -> bytes:
    boundary: bytes = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidForm("The body is a form, and its Content-Type names no boundary.")
    return boundary


def _fields(content_type: str, body: bytes) -> list[Field]:
    """Raises InvalidForm. The parser is given all at once, so that the places it tells of are places in the body."""
    boundary = _boundary(content_type)
    if body.count(b"\r\n--" + boundary) > _MOST_PARTS:
        raise InvalidForm(f"The form has more than {_MOST_PARTS} parts.")
    form = _Form()
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        raise InvalidForm(f"The body is not a valid form, at byte {getattr(error, 'offset', 0)}.") from None
    if not form.ended:
        raise InvalidForm("The body is not a valid form: it has no end, or not the boundary that Content-Type names.")
    return form.fields


class _Form:
    """What the parser has told so far."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.ended = False
        self._header = self._name = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_is,
            "on_header_value": self._header_says,
            "on_part_data": self._value_lies,
            "on_end": self._ends,
        }

    def _part_begins(self) -> None:
        self._name = b""

    def _header_is(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end].lower()

    def _header_says(self, data: bytes, start: int, end: int) -> None:
        if self._header == b"content-disposition":
            self._name = parse_options_header(data[start:end])[1].get(b"name", b"")

    def _value_lies(self, _body: bytes, start: int, end: int) -> None:
        self.fields.append(Field(self._name.decode(errors="replace"), start, end))

    def _ends(self) -> None:
        self.ended = True
