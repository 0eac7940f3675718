"""What nginx passes on, tries again and leaves as it is: real nginx, the project's own
configuration.
"""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from tests.integration.front import (
    BODY,
    PATH,
    PATIENCE,
    Answer,
    ask,
    connect,
    hang_up,
    nginx_before,
    reply,
    scripted_gateway,
    send_chunk,
    send_stream_head,
)
from tests.nginx import running_nginx

pytestmark = pytest.mark.servers


def test_a_request_goes_through_with_its_body_and_headers() -> None:
    with nginx_before(reply(200, b'{"id":"x"}', X_Request_Id="req-1")) as there:
        answer = ask(there.port, Authorization="Bearer k", Idempotency_Key="mine")
    assert (answer.status, answer.body, answer.headers["X-Request-Id"]) == (
        200,
        b'{"id":"x"}',
        "req-1",
    )
    (seen,) = there.gateways[0].seen
    assert (seen.method, seen.path, seen.body) == ("POST", PATH, BODY)
    assert (seen.headers["authorization"], seen.headers["idempotency-key"]) == ("Bearer k", "mine")


def test_an_idempotency_key_is_never_made_up() -> None:
    with nginx_before(reply(200)) as there:
        ask(there.port)
    assert "idempotency-key" not in there.gateways[0].seen[0].headers


def test_what_only_the_proxy_may_say_is_overwritten() -> None:
    with nginx_before(reply(200)) as there:
        ask(
            there.port,
            X_Proxy_Request_Id="forged",
            X_Forwarded_For="10.9.9.9",
            X_Forwarded_Proto="gopher",
            Forwarded="for=10.9.9.9",
        )
    headers = there.gateways[0].seen[0].headers
    assert headers["x-proxy-request-id"] not in ("", "forged")
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert headers["x-forwarded-host"] == headers["host"] == f"127.0.0.1:{there.port}"
    assert "forwarded" not in headers


def test_each_request_has_an_id_of_its_own() -> None:
    with nginx_before(reply(200)) as there:
        for _ in range(5):
            ask(there.port)
    assert len(set(there.request_ids)) == 5


def in_turn(*answers: Answer) -> Answer:
    """Answers the n-th request by the n-th answer, whichever of the gateways that share it is
    asked.
    """
    left, lock = list(answers), threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            mine = left.pop(0)
        mine(handler)

    return answer


@pytest.mark.parametrize(
    "first", [reply(503), reply(502), hang_up], ids=["503", "502", "killed before the head"]
)
def test_a_request_that_a_gateway_refuses_goes_to_the_other_under_the_same_id(
    first: Answer,
) -> None:
    both = in_turn(first, reply(200, b'{"second":true}'))
    with nginx_before(both, both) as there:
        assert ask(there.port).body == b'{"second":true}'
    assert [len(gateway.seen) for gateway in there.gateways] == [1, 1]
    assert len(set(there.request_ids)) == 1
    assert {seen.body for gateway in there.gateways for seen in gateway.seen} == {BODY}


def test_a_gateway_that_is_down_costs_no_request(refusing_port: int) -> None:
    with scripted_gateway(reply(200)) as alive, running_nginx([refusing_port, alive.port]) as port:
        assert [ask(port).status for _ in range(20)] == [200] * 20
    assert len(alive.seen) == 20


def test_gateways_that_failed_are_asked_again_at_once() -> None:
    both = in_turn(hang_up, hang_up, reply(200))
    with nginx_before(both, both) as there:
        assert [ask(there.port).status for _ in range(2)] == [502, 200]


def test_there_are_two_tries_and_no_more() -> None:
    with nginx_before(*[reply(503, b'{"draining":true}', Retry_After="7")] * 3) as there:
        answer = ask(there.port)
    assert (answer.status, answer.body, answer.headers["Retry-After"]) == (
        503,
        b'{"draining":true}',
        "7",
    )
    assert len(there.request_ids) == 2


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 504])
def test_other_errors_of_a_gateway_arrive_as_they_are(status: int) -> None:
    with nginx_before(*[reply(status, b'{"error":"own"}', x_should_retry="false")] * 2) as there:
        answer = ask(there.port)
    assert (answer.status, answer.body, answer.headers["x-should-retry"]) == (
        status,
        b'{"error":"own"}',
        "false",
    )
    assert len(there.request_ids) == 1


def test_a_stream_that_breaks_off_is_not_sent_twice_and_the_client_can_tell() -> None:
    def break_off(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        send_chunk(handler, b"data: 1\n\n")
        hang_up(handler)

    with (
        nginx_before(break_off, break_off) as there,
        pytest.raises(http.client.IncompleteRead) as broken,
    ):
        ask(there.port)
    assert broken.value.partial == b"data: 1\n\n"
    assert len(there.request_ids) == 1


@pytest.mark.parametrize("accepted", ["identity", "gzip, br"])
def test_an_event_is_not_held_back(accepted: str) -> None:
    arrived = [threading.Event() for _ in range(50)]

    def stream(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        for number, event in enumerate(arrived):
            send_chunk(handler, b"data: %d\n\n" % number)
            assert event.wait(PATIENCE)  # the next event only once the client has this one
        send_chunk(handler, b"")

    with nginx_before(stream) as there:
        connection = connect(there.port)
        connection.request("POST", PATH, BODY, {"Accept-Encoding": accepted})
        response = connection.getresponse()
        assert response.headers["Content-Encoding"] is None
        for number, event in enumerate(arrived):
            assert response.readline() + response.readline() == b"data: %d\n\n" % number
            event.set()
        assert response.read() == b""


def test_a_reader_that_stops_holds_the_gateway_back_and_does_not_fill_nginx() -> None:
    ended, took_all = threading.Event(), threading.Event()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        handler.connection.settimeout(1)  # for one write
        with contextlib.suppress(TimeoutError):
            for _ in range(1000):
                send_chunk(handler, b"x" * 65536)
            took_all.set()
        ended.set()
        handler.close_connection = True

    with nginx_before(flood) as there:
        connection = connect(there.port)
        connection.request("POST", PATH, BODY)
        assert ended.wait(PATIENCE)
        connection.close()
    assert not took_all.is_set()


def test_a_reply_cannot_steer_nginx() -> None:
    with nginx_before(reply(200, b'{"own":1}', X_Accel_Redirect="/nginx-health")) as there:
        assert ask(there.port).body == b'{"own":1}'


@pytest.mark.parametrize("streams", [True, False], ids=["in a stream", "before the head"])
def test_a_client_that_leaves_is_noticed_by_the_gateway(streams: bool) -> None:
    waiting, left = threading.Event(), threading.Event()

    def wait_for_the_end(handler: BaseHTTPRequestHandler) -> None:
        if streams:
            send_stream_head(handler)
            send_chunk(handler, b"data: 1\n\n")
        waiting.set()
        handler.connection.settimeout(PATIENCE)
        if handler.connection.recv(1) == b"":
            left.set()
        handler.close_connection = True

    with nginx_before(wait_for_the_end, wait_for_the_end) as there:
        connection = connect(there.port)
        connection.request("POST", PATH, BODY)
        if streams:
            assert connection.getresponse().readline() == b"data: 1\n"
        assert waiting.wait(PATIENCE)
        connection.close()
        assert left.wait(PATIENCE)
    assert len(there.request_ids) == 1


def test_connections_to_the_gateway_are_kept() -> None:
    with nginx_before(reply(200)) as there:
        assert [ask(there.port).status for _ in range(20)] == [200] * 20
    assert there.gateways[0].connections < 20
