"""With CHECK_KEY_BEFORE_BODY a large body is taken only after a gateway has accepted the request's
key.
"""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from tests.integration.front import BODY, PATH, PATIENCE, Answer, Front, ask, nginx_before, reply

pytestmark = pytest.mark.servers

LARGE = b"x" * 300_000
HOW_SENT = pytest.mark.parametrize("in_chunks", [False, True], ids=["of known length", "in chunks"])


def asks_for_a_key(status: int = 401) -> Answer:
    """Answer 200 to a request with the key `good`, `status` to others."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        accepted = handler.headers.get("Authorization") == "Bearer good"
        refusal = reply(status, b"the gateway's own", WWW_Authenticate="Bearer")
        (reply(200) if accepted else refusal)(handler)

    return answer


@contextmanager
def checking(*answers: Answer) -> Iterator[Front]:
    with nginx_before(*answers, CHECK_KEY_BEFORE_BODY="1") as there:
        yield there


def large_body(in_chunks: bool) -> bytes | Iterator[bytes]:
    return iter([LARGE]) if in_chunks else LARGE


def asked(there: Front) -> list[tuple[str, str, int]]:
    """Method, path and length of the body of each request that reached a gateway."""
    return [
        (seen.method, seen.path, len(seen.body))
        for gateway in there.gateways
        for seen in gateway.seen
    ]


@HOW_SENT
@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (403, "anonymous_refused")])
def test_a_large_body_without_a_good_key_reaches_no_gateway(
    status: int, code: str, in_chunks: bool
) -> None:
    with checking(asks_for_a_key(status)) as there:
        answer = ask(there.port, body=large_body(in_chunks), Authorization="Bearer bad")
    assert (answer.status, answer.error["code"]) == (status, code)
    assert asked(there) == [("GET", "/v1/models", 0)]
    assert answer.headers["WWW-Authenticate"] == ("Bearer" if status == 401 else None)


def test_a_refusal_comes_before_the_body_is_sent() -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode()
    with (
        checking(asks_for_a_key()) as there,
        socket.create_connection(("127.0.0.1", there.port), timeout=PATIENCE) as raw,
    ):
        raw.sendall(head)
        response = http.client.HTTPResponse(raw)
        response.begin()
        assert response.status == 401


@HOW_SENT
def test_a_large_body_with_a_good_key_goes_through_whole(in_chunks: bool) -> None:
    with checking(asks_for_a_key()) as there:
        assert (
            ask(there.port, body=large_body(in_chunks), Authorization="Bearer good").status == 200
        )
    assert asked(there) == [("GET", "/v1/models", 0), ("POST", PATH, len(LARGE))]


def test_a_small_body_costs_no_further_request() -> None:
    with checking(asks_for_a_key()) as there:
        assert ask(there.port, Authorization="Bearer good").status == 200
        answer = ask(there.port, Authorization="Bearer bad")
    assert (answer.status, answer.body) == (401, b"the gateway's own")
    assert asked(there) == [("POST", PATH, len(BODY))] * 2


def test_the_gateway_judges_the_client_by_what_it_sent() -> None:
    with checking(reply(200)) as there:
        ask(
            there.port,
            body=LARGE,
            Origin="https://a.example",
            X_Forwarded_For="192.0.2.1",
            Forwarded="for=x",
        )
    check, _ = (seen.headers for seen in there.gateways[0].seen)
    assert check["origin"] == "https://a.example"
    assert check["host"] == f"127.0.0.1:{there.port}"
    assert check["x-forwarded-for"] == "127.0.0.1"
    assert "forwarded" not in check
    assert "content-length" not in check


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_check_that_fails_leaves_the_answer_to_the_request_itself(status: int) -> None:
    with checking(reply(status, b"the gateway's own", Retry_After="7")) as there:
        answer = ask(there.port, body=LARGE)
    assert (answer.status, answer.body, answer.headers["Retry-After"]) == (
        status,
        b"the gateway's own",
        "7",
    )


def test_no_gateway_at_all_is_still_a_502(refusing_port: int) -> None:
    with nginx_before(CHECK_KEY_BEFORE_BODY="1", GATEWAYS=f"127.0.0.1:{refusing_port}") as there:
        answer = ask(there.port, body=LARGE)
    assert (answer.status, answer.error["code"]) == (502, "gateway_unreachable")
