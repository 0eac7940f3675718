"""Gateways to script, nginx in front of them, and a client that keeps nothing between two
requests.
"""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.nginx import running_nginx

PATIENCE = 20.0  # seconds; only a failing test waits for so long
BODY = b'{"model":"m","messages":[]}'
PATH = "/v1/chat/completions"


@dataclass
class Seen:
    """A request as it reached a gateway."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class ScriptedGateway:
    """An HTTP server that answers every request by `answer` and remembers what it was asked."""

    port: int
    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections that wait for it on a busy machine


@contextmanager
def scripted_gateway(answer: Answer) -> Iterator[ScriptedGateway]:
    """Runs a ScriptedGateway on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            gateway.connections += 1

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            gateway.seen.append(Seen(self.command, self.path, headers, body))
            gateway.answer(self)

        do_GET = do_POST = handle_any

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    gateway = ScriptedGateway(server.server_address[1], answer)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.socket.close()


def reply(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    """An answer of that status, body and headers (an underscore in a header's name stands for a
    hyphen).
    """

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {
            "Content_Type": "application/json",
            "Content_Length": str(len(body)),
            **headers,
        }.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Ends the connection without an answer, as a killed process does."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def send_stream_head(handler: BaseHTTPRequestHandler) -> None:
    """Begins an SSE reply in chunks."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def send_chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """One chunk of a reply in chunks; an empty one ends it."""
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    handler.wfile.flush()


@dataclass
class Front:
    """nginx's port and the gateways behind it."""

    port: int
    gateways: list[ScriptedGateway]

    @property
    def request_ids(self) -> list[str]:
        """The X-Proxy-Request-Id of every request that reached a gateway."""
        return [
            seen.headers["x-proxy-request-id"] for gateway in self.gateways for seen in gateway.seen
        ]


@contextmanager
def nginx_before(*answers: Answer, **settings: str) -> Iterator[Front]:
    """nginx in front of one gateway for each answer; settings go to nginx/start.sh."""
    with ExitStack() as stack:
        gateways = [stack.enter_context(scripted_gateway(answer)) for answer in answers]
        port = stack.enter_context(running_nginx([gateway.port for gateway in gateways], settings))
        yield Front(port, gateways)


@dataclass
class Reply:
    """What a client got."""

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


def connect(port: int) -> http.client.HTTPConnection:
    """A client's connection to 127.0.0.1."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def ask(port: int, path: str = PATH, body: bytes | Iterator[bytes] = BODY, **headers: str) -> Reply:
    """One POST on a connection of its own; an iterator's pieces go as chunks (- for _ in the
    headers' names).
    """
    connection = connect(port)
    connection.request(
        "POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    answer = Reply(response.status, response.headers, response.read())
    connection.close()
    return answer
