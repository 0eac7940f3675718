"""What nginx answers by itself: bodies over the limit, no gateway, the operator's paths, what is no
HTTP.
"""

import contextlib
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from tests.integration.front import PATIENCE, Answer, ask, connect, nginx_before, reply
from tests.nginx import running_nginx

pytestmark = pytest.mark.servers


def test_a_body_up_to_the_limit_passes_and_one_byte_more_is_413() -> None:
    with nginx_before(reply(200), MAX_BODY_BYTES="1000") as there:
        assert ask(there.port, body=b"x" * 1000).status == 200
        answer = ask(there.port, body=b"x" * 1001)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (
        413,
        "body_too_large",
        "invalid_request_error",
    )
    assert "1000" in answer.error["message"]
    assert len(there.request_ids) == 1


def test_a_body_in_chunks_has_the_same_limit() -> None:
    with nginx_before(reply(200), MAX_BODY_BYTES="1000") as there:
        assert ask(there.port, body=iter([b"x" * 500, b"x" * 500])).status == 200
        answer = ask(there.port, body=iter([b"x" * 500, b"x" * 501]))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert len(there.request_ids) == 1


def test_a_large_body_and_a_large_reply_go_through_whole() -> None:
    large = b"0123456789abcdef" * 500_000
    with nginx_before(reply(200, large)) as there:
        assert ask(there.port, body=large).body == large
    assert there.gateways[0].seen[0].body == large


def test_no_gateway_at_all_is_an_openai_error_that_says_when_to_try_again(
    refusing_port: int,
) -> None:
    with running_nginx([refusing_port, refusing_port]) as port:
        answer = ask(port)
    assert (answer.status, answer.headers["Retry-After"]) == (502, "1")
    assert (answer.error["type"], answer.error["code"]) == ("server_error", "gateway_unreachable")


def held(event: threading.Event, begun: threading.Semaphore) -> Answer:
    """An answer that waits for the event."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        begun.release()
        assert event.wait(PATIENCE)
        reply(200)(handler)

    return answer


def test_an_address_may_have_so_many_requests_open_and_one_more_is_429() -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)
    with (
        nginx_before(held(go_on, begun), CLIENT_CONNECTIONS="2") as there,
        ThreadPoolExecutor() as clients,
    ):
        open_ones = [clients.submit(ask, there.port) for _ in range(2)]
        assert all(begun.acquire(timeout=PATIENCE) for _ in open_ones)
        refused = ask(there.port)
        health = connect(there.port)
        health.request("GET", "/nginx-health")
        assert health.getresponse().status == 200
        health.close()
        go_on.set()
        assert [one.result().status for one in open_ones] == [200, 200]
        assert ask(there.port).status == 200
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert (refused.error["code"], refused.error["type"]) == (
        "too_many_connections",
        "rate_limit_error",
    )
    assert "2" in refused.error["message"]
    assert len(there.request_ids) == 3


def test_with_0_an_address_may_have_any_number_of_requests_open() -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)
    with (
        nginx_before(held(go_on, begun), CLIENT_CONNECTIONS="0") as there,
        ThreadPoolExecutor(20) as clients,
    ):
        open_ones = [clients.submit(ask, there.port) for _ in range(20)]
        assert all(begun.acquire(timeout=PATIENCE) for _ in open_ones)
        go_on.set()
        assert {one.result().status for one in open_ones} == {200}


def test_a_gateways_own_429_is_its_own() -> None:
    with nginx_before(reply(429, b"its own", Retry_After="7")) as there:
        answer = ask(there.port)
    assert (answer.status, answer.body, answer.headers["Retry-After"]) == (429, b"its own", "7")


OPERATORS = [
    "/metrics",
    "/metrics/",
    "//metrics",
    "/%6detrics",
    "/v1/../metrics",
    "/v1/..%2fmetrics",
    "/admin",
    "/admin/dlq",
]


def test_the_operators_paths_are_not_passed_on() -> None:
    with nginx_before(reply(200)) as there:
        answers = [ask(there.port, path) for path in OPERATORS]
    assert [(answer.status, answer.error["code"]) for answer in answers] == [
        (404, "unknown_url")
    ] * len(OPERATORS)
    assert there.request_ids == []


def test_paths_that_only_look_like_the_operators_are_passed_on() -> None:
    paths = ["/v1/models/metrics", "/metrics-of-mine", "/docs", "/readyz"]
    with nginx_before(reply(200)) as there:
        assert [ask(there.port, path).status for path in paths] == [200] * len(paths)
    assert [seen.path for seen in there.gateways[0].seen] == paths


NO_HTTP = {
    "a greeting": (b"hello\r\n\r\n", 400, "bad_request"),
    "a header too long": (
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40000 + b"\r\n\r\n",
        431,
        "headers_too_large",
    ),
    "a line too long": (
        b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        431,
        "headers_too_large",
    ),
    "a wrong length": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        400,
        "bad_request",
    ),
    "a transfer coding": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        501,
        "not_implemented",
    ),
    "a version to come": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "http_version_not_supported"),
    "a wrong chunk": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "bad_request",
    ),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_not_http_gets_an_openai_error_and_reaches_no_gateway(name: str) -> None:
    request, status, code = NO_HTTP[name]
    with (
        nginx_before(reply(200)) as there,
        socket.create_connection(("127.0.0.1", there.port), timeout=PATIENCE) as raw,
    ):
        raw.sendall(request)
        response = http.client.HTTPResponse(raw)
        response.begin()
        assert response.getheader("Content-Type") == "application/json"
        assert (response.status, json.loads(response.read())["error"]["code"]) == (status, code)
    assert there.request_ids == []


def test_a_client_that_never_ends_its_head_is_cut_off() -> None:
    with (
        nginx_before(reply(200)) as there,
        socket.create_connection(("127.0.0.1", there.port), timeout=PATIENCE) as raw,
    ):
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionResetError):  # reset_timedout_connection
            assert raw.recv(1000) == b""
