"""What is read of a form, and its model's name."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest, InvalidForm, UnsupportedMedia
from app.openai_api.bodies import CHAT, COMPLETIONS, EMBEDDINGS, ParsedBody
from app.openai_api.multipart import check_form, replace_form_model, strip_boundary

PATH = "/audio/transcriptions"
BOUNDARY = "b0und"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, value: bytes, filename: str = "") -> bytes:
    said = f'name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (
        BOUNDARY.encode(),
        said.encode(),
        value,
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


MODEL, FILE = part("model", b"whisper"), part("file", b"\r\n--b0un\r\n--\0\xff" * 100, "a.wav")


@pytest.mark.parametrize("parts", [(MODEL, FILE), (FILE, MODEL)])
@pytest.mark.parametrize(
    ("said", "stream"),
    [
        (b"true", True),
        (b"True", True),
        (b"1", True),
        (b"false", False),
        (b"0", False),
        (b"", False),
    ],
)
def test_model_and_stream_are_read_wherever_they_stand(parts, said, stream):
    assert check_form(PATH, TYPE, form(*parts)) == ParsedBody("whisper", False)
    assert check_form(PATH, TYPE, form(*parts, part("stream", said))) == ParsedBody(
        "whisper", stream
    )
    assert check_form(PATH, TYPE, form(part("stream", said), *parts)) == ParsedBody(
        "whisper", stream
    )


def test_a_quoted_boundary_and_a_names_letters_are_read():
    found = form(part("model", "größe/ü".encode())).replace(
        b"Content-Disposition", b"content-disposition"
    )
    assert (
        check_form(PATH, f'multipart/form-data; charset=utf-8; boundary="{BOUNDARY}"', found).model
        == "größe/ü"
    )


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (form(FILE), "model is missing", "model"),
        (form(part("model", b"")), "model is missing", "model"),
        (form(MODEL, MODEL), "more than once", "model"),
        (form(part("model", b"\xff")), "UTF-8", "model"),
        (form(MODEL, part("stream", b"maybe")), "true or false", "stream"),
        (form(MODEL, part("stream", b"true"), part("stream", b"true")), "more than once", "stream"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(body, message, param):
    with pytest.raises(BadRequest, match=message) as refused:
        check_form(PATH, TYPE, body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form(MODEL)),
        ("multipart/form-data; boundary=", form(MODEL)),
        ("multipart/form-data; boundary=another", form(MODEL)),
        (f"multipart/form-data; boundary={'x' * 300}", form(MODEL)),
        (TYPE, b""),
        (TYPE, b'{"model":"whisper"}'),
        (TYPE, form(MODEL)[:-10]),
        (TYPE, form(MODEL).replace(b"Content", b"Con tent")),
        (TYPE, form(MODEL, *[part("more", b"x")] * 128)),
    ],
)
def test_what_is_no_form_is_refused(content_type, body):
    with pytest.raises(InvalidForm):
        check_form(PATH, content_type, body)


def named(disposition: str, value: bytes = b"other") -> bytes:
    """A part whose Content-Disposition says anything."""
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"


AMBIGUOUS = (
    named("form-data; name*=utf-8''model"),
    named("form-data; name*0=mo; name*1=del"),
    named("form-data; name=x; name*=utf-8''model"),
    named('form-data; name="Model"'),
    named('form-data; name="MODEL"'),
    named('form-data; name="mo\\del"'),
    named('form-data; name="mod%65l"'),
    named('form-data; name=" model "'),
    named('form-data; name="model"; name="x"'),
    named('form-data; name="x"; name="model"'),
    named('form-data; name="x"; Name="model"'),
    named('form-data; name="x"\r\nContent-Disposition: form-data; name="model"'),
    named('form-data; name="x"\r\ncontent-disposition: form-data; name="model"'),
    named('form-data; name="model"; filename="model"'),
    named("form-data; name=model; filename*=utf-8''m"),
    named('attachment; name="model"'),
    named('form-data; name="x" name="model"'),
    named('form-data; name="x'),
    named("form-data"),
    f"--{BOUNDARY}\r\n\r\nother\r\n".encode(),
    part("x", f"\n--{BOUNDARY}\nContent-Disposition: form-data; name=model\n\nother".encode()),
    part("x", f"\r--{BOUNDARY}\rContent-Disposition: form-data; name=model\r\rother".encode()),
    part("model", b""),
    part("model", b"other"),
)


@pytest.mark.parametrize("ambiguous", AMBIGUOUS)
def test_a_form_that_servers_could_read_in_two_ways_is_refused(ambiguous):
    for parts in ((MODEL, ambiguous), (ambiguous, MODEL), (MODEL, FILE, ambiguous)):
        with pytest.raises(BadRequest) as refused:
            check_form(PATH, TYPE, form(*parts))
        assert refused.value.status == 400
    with pytest.raises(BadRequest):
        check_form(PATH, TYPE, form(MODEL) + ambiguous + form(FILE))


@pytest.mark.parametrize(
    "content_type",
    [
        f"multipart/form-data; boundary={BOUNDARY}; boundary=another",
        f"multipart/form-data; boundary=another; Boundary={BOUNDARY}",
        f"multipart/form-data; boundary*=utf-8''another; boundary={BOUNDARY}",
        f"multipart/form-data; boundary*0=b0; boundary*1=und; boundary={BOUNDARY}",
    ],
)
def test_two_boundaries_are_refused(content_type):
    with pytest.raises(InvalidForm):
        check_form(PATH, content_type, form(MODEL))


@pytest.mark.parametrize("kind", ["multipart/mixed", "multipart/related", "multipart/form-data-x"])
def test_another_multipart_is_no_form(kind):
    with pytest.raises(UnsupportedMedia):
        check_form(PATH, f"{kind}; boundary={BOUNDARY}", form(MODEL))


@pytest.mark.parametrize(
    "plain",
    [
        named('form-data; name="file"; filename="a; name=b.wav"'),
        named('form-data; name="file"; filename="C:\\dir\\größe \\"1\\".wav"'),
        named('form-data; name="file"; filename="x.wav"; filename*=utf-8\'\'%C3%A9.wav'),
        named("form-data;name=file;filename=a.wav;"),
        named('FORM-DATA; Name="model_name"', b"--b0un --x"),
        named('form-data; name="timestamp_granularities[]"\r\nContent-Type: text/plain'),
        part("models", b"x"),
        part("", b"x"),
    ],
)
def test_a_part_of_any_other_name_passes(plain):
    for parts in ((MODEL, plain), (plain, MODEL)):
        assert check_form(PATH, TYPE, form(*parts)) == ParsedBody("whisper", False)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_where_openai_takes_json_a_form_is_refused(path):
    with pytest.raises(UnsupportedMedia):
        check_form(path, TYPE, form(MODEL))


NAME = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8).filter(
    lambda name: name != "model"
)


@given(
    st.lists(st.tuples(NAME, st.binary(max_size=40))),
    st.text(min_size=1, max_size=20),
    st.text(min_size=1, max_size=20),
)
def test_the_model_is_renamed_and_nothing_else(others, old, new):
    others = [(name, value) for name, value in others if BOUNDARY.encode() not in value]
    for place in {0, len(others)}:
        parts = [part(name, value) for name, value in others]
        before, after = (
            [*parts[:place], part("model", name.encode()), *parts[place:]] for name in (old, new)
        )
        if BOUNDARY not in old:
            assert replace_form_model(TYPE, form(*before), new) == form(*after)


@given(st.binary(max_size=200), st.text(st.characters(codec="latin-1"), max_size=20))
def test_whatever_comes_is_read_or_refused(body, boundary):
    for content_type in (TYPE, f"multipart/form-data; boundary={boundary}"):
        for each in (
            body,
            form(MODEL, part("file", body)),
            form(MODEL) + body,
            form(MODEL)[: len(body)],
        ):
            with suppress(BadRequest, InvalidForm):
                check_form(PATH, content_type, each)


def test_the_same_form_with_another_boundary_is_the_same():
    other = form(MODEL, FILE).replace(BOUNDARY.encode(), b"another")
    assert strip_boundary(TYPE, form(MODEL, FILE)) == strip_boundary(
        "multipart/form-data; boundary=another", other
    )
    assert strip_boundary(TYPE, form(MODEL, FILE)) != strip_boundary(TYPE, form(MODEL))


def test_what_a_file_has_of_its_boundary_is_still_the_files():
    short = "multipart/form-data; boundary=x"
    one, other = (b"--x\r\n\r\n" + file + b"\r\n--x--" for file in (b"axb", b"ab"))
    assert strip_boundary(short, one) != strip_boundary(short, other)
