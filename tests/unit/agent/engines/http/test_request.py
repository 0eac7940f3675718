"""An upstream's address and a request's head: what is sent is what is meant, and no line more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.engines.base import JSON
from app.agent.engines.http.request import Address, common_head, own_head, request_line
from app.errors import BadRequest


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "name"),
    [
        ("http://127.0.0.1:8011", "127.0.0.1", 8011, "127.0.0.1:8011", "127.0.0.1:8011"),
        ("http://up", "up", 80, "up", "up:80"),
        (
            "https://API.openai.com/v1",
            "api.openai.com",
            443,
            "api.openai.com",
            "api.openai.com:443",
        ),
        ("https://up:80", "up", 80, "up:80", "up:80"),
        ("http://[::1]:8011/v1", "::1", 8011, "[::1]:8011", "[::1]:8011"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]", "[2001:db8::1]:443"),
        (
            "http://bücher.example",
            "xn--bcher-kva.example",
            80,
            "xn--bcher-kva.example",
            "xn--bcher-kva.example:80",
        ),
    ],
)
def test_an_address_is_taken_apart(
    url: str, host: str, port: int, authority: str, name: str
) -> None:
    address = Address.of(url)
    assert (address.host, address.port, address.authority, address.name) == (
        host,
        port,
        authority,
        name,
    )


@pytest.mark.parametrize(
    ("url", "token", "line"),
    [
        ("http://u:p@up", "", b"Authorization: Basic dTpw\r\n"),
        ("http://u:p%40%3A@up", "", b"Authorization: Basic dTpwQDo=\r\n"),
        ("http://u@up", "", b"Authorization: Basic dTo=\r\n"),
        ("http://u:p@up", "t", b"Authorization: Bearer t\r\n"),
    ],
)
def test_a_token_wins_over_credentials_in_the_address(url: str, token: str, line: bytes) -> None:
    head = common_head(Address.of(url), token)
    assert head.count(b"Authorization") == 1
    assert line in head
    assert b"Host: up\r\n" in head
    assert "p" not in repr(Address.of(url)).partition("credentials")[2]


@pytest.mark.parametrize("url", ["http://", "http://:80", "http://up:x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.of(url)


def test_a_token_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a line"):
        common_head(Address.of("http://up"), "t\r\nX: y")


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\r", "a\0b", "\u20ac"])
def test_a_value_that_is_more_than_a_headers_value_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="cannot be passed on"):
        own_head("0123", JSON, [("x", value)])
    with pytest.raises(BadRequest, match="cannot be passed on"):
        own_head(value, JSON, [])
    with pytest.raises(BadRequest, match="cannot be passed on"):
        own_head("0123", value, [])


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a:", "a\r\nX", "é", "Content-Length", "transfer-encoding", "HOST", "connection"],
)
def test_a_name_that_is_none_or_is_ours_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="cannot be passed on"):
        own_head("0123", JSON, [(name, "1")])


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3))
def test_whatever_the_headers_each_is_a_line_or_the_request_is_refused(
    head: list[tuple[str, str]],
) -> None:
    try:
        lines = own_head("0123", JSON, head)
    except BadRequest:
        return
    expected = [
        b"X-Request-Id: 0123",
        b"Content-Type: application/json",
        *(f"{name}: {value}".encode("latin-1") for name, value in head),
        b"",
    ]
    assert lines.split(b"\r\n") == expected


def test_bytes_beyond_ascii_go_out_as_they_came_in() -> None:
    assert b"x: gr\xfc\xdf\r\n" in own_head("0123", JSON, [("x", b"gr\xfc\xdf".decode("latin-1"))])


@given(st.text(max_size=20))
def test_whatever_the_path_a_request_line_is_one_line(path: str) -> None:
    line = request_line("POST", "/v1", f"/{path}")
    assert line.startswith(b"POST /v1/")
    assert len(line.split()) == 3
    assert line.splitlines() == [line.removesuffix(b"\r\n")]


@pytest.mark.parametrize(
    ("own", "target", "sent"),
    [
        ("api-version=2024-06-01", "/chat/completions", "/chat/completions?api-version=2024-06-01"),
        ("api-version=1&k=%2F", "/x?a=b&c", "/x?api-version=1&k=%2F&a=b&c"),
        (
            "api-version=1",
            "/x?api-version=2&api%2Dversion=3&a=api-version",
            "/x?api-version=1&a=api-version",
        ),
        ("", "/x?a=b&&c", "/x?a=b&&c"),
    ],
)
def test_an_addresss_query_goes_before_the_clients_and_is_not_replaced_by_it(
    own: str, target: str, sent: str
) -> None:
    assert request_line("POST", "/v1", target, own) == f"POST /v1{sent} HTTP/1.1\r\n".encode()


@given(query=st.text(max_size=20), target=st.text(max_size=20))
def test_whatever_the_queries_a_request_line_is_one_line(query: str, target: str) -> None:
    try:
        own = Address.of(f"http://up/v1?{query}").query
    except ValueError:
        return
    line = request_line("POST", "/v1", f"/x?{target}", own)
    assert line.splitlines() == [line.removesuffix(b"\r\n")]
    assert len(line.split()) == 3


def test_an_addresss_query_is_not_shown() -> None:
    address = Address.of("http://up/v1?key=secret")
    assert (address.query, "secret" in repr(address)) == ("key=secret", False)
