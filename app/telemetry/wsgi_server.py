"""The HTTP server of ADMIN_PORT: a bounded number of threads, and a time limit for each
connection.
"""

import socket
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

MOST_CONNECTIONS = 32
CONNECTION_SECONDS = 10.0  # without a byte


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each connection in a thread of its own, up to a number; more are closed at once."""

    daemon_threads = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._room = BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep silent about a client that has gone or was too slow."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def start_server(host: str, port: int, app: "WSGIApplication") -> WSGIServer:
    """Serve `app` from a thread. Raises OSError where the address cannot be had."""
    kind = _Server6 if ":" in host else _Server
    server = make_server(host, port, app, kind, _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server
