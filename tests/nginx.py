"""Real nginx from the project's own configuration, in front of given gateways on 127.0.0.1, and gateways to script."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START = Path(__file__).parents[1] / "nginx" / "start.sh"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_nginx(gateway_ports: Sequence[int], port: int | None = None, **settings: str) -> Iterator[int]:
    """Runs nginx/start.sh in front of `gateway_ports`; gives the port that nginx listens on.

    `settings` are start.sh's variables, for instance MAX_BODY_BYTES="1000". Raises AssertionError, with nginx's own
    words, where it does not come up.
    """
    port = port or free_port()
    gateways = " ".join(f"127.0.0.1:{gateway}" for gateway in gateway_ports)
    with tempfile.TemporaryDirectory() as run_dir, open(Path(run_dir) / "log", "wb") as log:
        environment = {"PATH": os.environ["PATH"], "LISTEN": f"127.0.0.1:{port}", "GATEWAYS": gateways, "RUN_DIR": run_dir}
        process = subprocess.Popen([START], env=environment | settings, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while not _listens(port):
                said = (Path(run_dir) / "log").read_text()
                assert process.poll() is None and time.monotonic() < deadline, f"nginx does not listen: {said}"
                time.sleep(0.02)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway = ScriptedGateway(server.server_address[1], answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.socket.close()


def reply(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    """An answer of that status, body and headers (an underscore in a header's name stands for a hyphen)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}.items():
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
