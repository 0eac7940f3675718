"""Real nginx, from the project's own configuration, in front of scripted gateways."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import pytest

from tests.nginx import (
    Answer,
    ScriptedGateway,
    free_port,
    hang_up,
    reply,
    running_nginx,
    scripted_gateway,
    send_chunk,
    send_stream_head,
)

pytestmark = pytest.mark.servers
PATIENCE = 20.0  # seconds; only a failing test waits for so long
BODY = b'{"model":"m","messages":[]}'
PATH = "/v1/chat/completions"


@dataclass
class Front:
    """nginx's port and the gateways behind it."""

    port: int
    gateways: list[ScriptedGateway]

    @property
    def request_ids(self) -> list[str]:
        return [seen.headers["x-proxy-request-id"] for gateway in self.gateways for seen in gateway.seen]


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        """The OpenAI error in the body."""
        assert self.headers["Content-Type"] == "application/json"
        error: dict[str, str] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


MakeFront = Callable[..., Front]


@pytest.fixture
def front() -> Iterator[MakeFront]:
    """Makes a Front with one gateway for each answer; settings go to nginx/start.sh."""
    with ExitStack() as stack:

        def make(*answers: Answer, **settings: str) -> Front:
            gateways = [stack.enter_context(scripted_gateway(answer)) for answer in answers]
            port = stack.enter_context(running_nginx([gateway.port for gateway in gateways], **settings))
            return Front(port, gateways)

        yield make


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def ask(port: int, path: str = PATH, body: object = BODY, **headers: str) -> Reply:
    """One POST on a connection of its own; an iterable body goes in chunks."""
    connection = connect(port)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})  # type: ignore[arg-type]
    response = connection.getresponse()
    answer = Reply(response.status, response.headers, response.read())
    connection.close()
    return answer


def until_client_leaves(handler: BaseHTTPRequestHandler, left: threading.Event) -> None:
    handler.connection.settimeout(PATIENCE)
    if handler.connection.recv(1) == b"":
        left.set()
    handler.close_connection = True


def test_a_request_goes_through_with_its_body_and_headers(front: MakeFront) -> None:
    there = front(reply(200, b'{"id":"x"}', X_Request_Id="req-1"))
    answer = ask(there.port, body=BODY, Authorization="Bearer k", Idempotency_Key="mine", Content_Type="application/json")
    assert (answer.status, answer.body, answer.headers["X-Request-Id"]) == (200, b'{"id":"x"}', "req-1")
    (seen,) = there.gateways[0].seen
    assert (seen.method, seen.path, seen.body) == ("POST", PATH, BODY)
    assert (seen.headers["authorization"], seen.headers["idempotency-key"]) == ("Bearer k", "mine")


def test_an_idempotency_key_is_never_made_up(front: MakeFront) -> None:
    there = front(reply(200))
    ask(there.port)
    assert "idempotency-key" not in there.gateways[0].seen[0].headers


def test_what_only_the_proxy_may_say_is_overwritten(front: MakeFront) -> None:
    there = front(reply(200))
    forged = {"X_Proxy_Request_Id": "forged", "X_Forwarded_For": "10.9.9.9", "X_Forwarded_Proto": "gopher", "Forwarded": "for=10.9.9.9"}
    ask(there.port, **forged)
    headers = there.gateways[0].seen[0].headers
    assert headers["x-proxy-request-id"] not in ("", "forged")
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert headers["x-forwarded-host"] == headers["host"] == f"127.0.0.1:{there.port}"
    assert "forwarded" not in headers


def test_each_request_has_an_id_of_its_own(front: MakeFront) -> None:
    there = front(reply(200))
    for _ in range(5):
        ask(there.port)
    assert len(set(there.request_ids)) == 5


def answer_in_turn(*answers: Answer) -> Answer:
    """Answers the n-th request by the n-th answer, whichever gateway it comes to; shared by all of them."""
    left, lock = list(answers), threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            mine = left.pop(0)
        mine(handler)

    return answer


@pytest.mark.parametrize("first", [reply(503), reply(502), hang_up], ids=["503", "502", "killed before the head"])
def test_a_request_that_a_gateway_refuses_goes_to_the_other_under_the_same_id(front: MakeFront, first: Answer) -> None:
    both = answer_in_turn(first, reply(200, b'{"second":true}'))
    there = front(both, both)
    assert ask(there.port).body == b'{"second":true}'
    assert [len(gateway.seen) for gateway in there.gateways] == [1, 1]
    assert len(set(there.request_ids)) == 1
    assert {seen.body for gateway in there.gateways for seen in gateway.seen} == {BODY}


def test_a_gateway_that_is_down_costs_no_request() -> None:
    with scripted_gateway(reply(200)) as alive, running_nginx([free_port(), alive.port]) as port:
        assert [ask(port).status for _ in range(20)] == [200] * 20
        assert len(alive.seen) == 20


def test_there_are_two_tries_and_no_more(front: MakeFront) -> None:
    there = front(*[reply(503, b'{"draining":true}', Retry_After="7")] * 3)
    answer = ask(there.port)
    assert (answer.status, answer.body, answer.headers["Retry-After"]) == (503, b'{"draining":true}', "7")
    assert len(there.request_ids) == 2


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 504])
def test_other_errors_of_a_gateway_arrive_as_they_are(front: MakeFront, status: int) -> None:
    there = front(*[reply(status, b'{"error":"own"}', x_should_retry="false")] * 2)
    answer = ask(there.port)
    assert (answer.status, answer.body, answer.headers["x-should-retry"]) == (status, b'{"error":"own"}', "false")
    assert len(there.request_ids) == 1


def test_a_stream_that_breaks_off_is_not_sent_twice_and_the_client_can_tell(front: MakeFront) -> None:
    def break_off(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        send_chunk(handler, b"data: 1\n\n")
        hang_up(handler)

    there = front(break_off, break_off)
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(there.port)
    assert broken.value.partial == b"data: 1\n\n"
    assert len(there.request_ids) == 1


@pytest.mark.parametrize("accepted", ["identity", "gzip, br"])
def test_an_event_is_not_held_back(front: MakeFront, accepted: str) -> None:
    arrived = [threading.Event(), threading.Event()]

    def stream(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        for number, event in enumerate(arrived):
            send_chunk(handler, b"data: %d\n\n" % number)
            assert event.wait(PATIENCE)  # the next event only once the client has this one
        send_chunk(handler, b"")

    connection = connect(front(stream).port)
    connection.request("POST", PATH, BODY, {"Accept-Encoding": accepted})
    response = connection.getresponse()
    assert response.headers["Content-Encoding"] is None
    for number, event in enumerate(arrived):
        assert response.readline() + response.readline() == b"data: %d\n\n" % number
        event.set()
    assert response.read() == b""


def test_a_reply_cannot_steer_nginx(front: MakeFront) -> None:
    there = front(reply(200, b'{"own":1}', X_Accel_Redirect="/nginx-health", X_Accel_Buffering="yes"))
    assert ask(there.port).body == b'{"own":1}'


@pytest.mark.parametrize("streams", [True, False], ids=["in a stream", "before the head"])
def test_a_client_that_leaves_is_noticed_by_the_gateway(front: MakeFront, streams: bool) -> None:
    waiting, left = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if streams:
            send_stream_head(handler)
            send_chunk(handler, b"data: 1\n\n")
        waiting.set()
        until_client_leaves(handler, left)

    there = front(answer, answer)
    connection = connect(there.port)
    connection.request("POST", PATH, BODY)
    if streams:
        assert connection.getresponse().readline() == b"data: 1\n"
    assert waiting.wait(PATIENCE)
    connection.close()
    assert left.wait(PATIENCE)
    assert len(there.request_ids) == 1


def test_connections_to_the_gateway_are_kept(front: MakeFront) -> None:
    there = front(reply(200))
    for _ in range(10):
        assert ask(there.port).status == 200
    assert there.gateways[0].connections < 10


def test_a_body_up_to_the_limit_passes_and_one_byte_more_is_413(front: MakeFront) -> None:
    there = front(reply(200), MAX_BODY_BYTES="1000")
    assert ask(there.port, body=b"x" * 1000).status == 200
    answer = ask(there.port, body=b"x" * 1001)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (413, "body_too_large", "invalid_request_error")
    assert "1000" in answer.error["message"]
    assert len(there.request_ids) == 1


def test_a_body_in_chunks_has_the_same_limit(front: MakeFront) -> None:
    there = front(reply(200), MAX_BODY_BYTES="1000")
    assert ask(there.port, body=iter([b"x" * 500, b"x" * 500])).status == 200
    answer = ask(there.port, body=iter([b"x" * 500, b"x" * 501]))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


def test_a_large_body_and_a_large_reply_go_through_whole(front: MakeFront) -> None:
    large = b"0123456789abcdef" * 500_000
    there = front(reply(200, large))
    assert ask(there.port, body=large).body == large
    assert there.gateways[0].seen[0].body == large


def test_no_gateway_at_all_is_an_openai_error_that_says_when_to_try_again() -> None:
    with running_nginx([free_port(), free_port()]) as port:
        answer = ask(port)
    assert (answer.status, answer.headers["Retry-After"]) == (502, "1")
    assert (answer.error["type"], answer.error["code"]) == ("server_error", "gateway_unreachable")


OPERATORS = ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/v1/../metrics", "/v1/..%2fmetrics", "/admin", "/admin/dlq"]


@pytest.mark.parametrize("path", OPERATORS)
def test_the_operators_paths_are_not_passed_on(front: MakeFront, path: str) -> None:
    there = front(reply(200))
    answer = ask(there.port, path)
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert there.request_ids == []


@pytest.mark.parametrize("path", ["/v1/models/metrics", "/metrics-of-mine", "/docs", "/readyz"])
def test_paths_that_only_look_like_the_operators_are_passed_on(front: MakeFront, path: str) -> None:
    assert ask(front(reply(200)).port, path).status == 200


BAD_REQUESTS = {
    "no HTTP": (b"hello\r\n\r\n", 400, "bad_request"),
    "a header too long": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40000 + b"\r\n\r\n", 431, "headers_too_large"),
    "a wrong length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
    "a wrong chunk": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_request"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_what_is_not_http_gets_an_openai_error_and_reaches_no_gateway(front: MakeFront, name: str) -> None:
    request, status, code = BAD_REQUESTS[name]
    there = front(reply(200))
    with socket.create_connection(("127.0.0.1", there.port), timeout=PATIENCE) as raw:
        raw.sendall(request)
        response = http.client.HTTPResponse(raw)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (status, code)
    assert there.request_ids == []


def test_a_client_that_never_ends_its_head_is_cut_off(front: MakeFront) -> None:
    with socket.create_connection(("127.0.0.1", front(reply(200)).port), timeout=PATIENCE) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
        try:
            assert raw.recv(1000) == b""
        except ConnectionResetError:
            pass
