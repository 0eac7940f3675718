"""uvicorn's HTTP protocol with what it leaves out of RFC 9110 and RFC 9112; decision 0019 names
each method.
"""

import re
from functools import lru_cache, partial
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import BadRequest, GatewayError
from app.gateway.http.api_dialect import encode_error_body
from app.gateway.http.asgi import App, Message, Receive, Scope, Send, send_error
from app.gateway.http.half_closed import IS_SUPPORTED, HalfCloseProber, make_probe
from app.protocol.request_id import new_refused_id

_HOST_PATTERN = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]{0,300}")


class HttpProtocol(HttpToolsProtocol):
    """Requests with an upgrade, without a Host, of HTTP/1.0, and of clients that close their
    sending side.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._half_close_prober: HalfCloseProber | None = None  # the client sends no more
        self._is_upgrade_requested = False  # the head that was read last asks for another protocol
        self._served_app: App = self.app
        self.ws_protocol_class = None  # no upgrade is taken

    def connection_lost(self, exc: Exception | None) -> None:
        if self._half_close_prober is not None:
            self._half_close_prober.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.send_400_response("")
        except HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the request once more as if it had not asked for an upgrade (RFC 9110 section 7.8).

        The parser takes what follows such a head for the other protocol's: the body was lost, and
        one that came in a second segment was the next request (CWE-444). Every `HttpClient` of a
        JDK asks for h2c.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("")
            return
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        head += [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        HttpProtocol.data_received(self, b"".join([*head, b"\r\n", rest]))

    def on_headers_complete(self) -> None:
        self._is_upgrade_requested = self.parser.should_upgrade()
        if self._is_upgrade_requested:
            return  # the head is parsed once more
        self.app = self._select_application()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = partial(_send_unframed, self.cycle, self.cycle.send)  # type: ignore[method-assign, arg-type]

    def _select_application(self) -> App:
        """Return what answers the request whose head is complete."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            return make_refusal_app(
                BadRequest("a request has exactly one Host header (RFC 9112 section 3.2)")
            )
        if hosts and not _is_valid_host(hosts[0]):
            return make_refusal_app(
                BadRequest("the Host header is no host and port (RFC 9112 section 3.2)")
            )
        return self._served_app

    def on_message_complete(self) -> None:
        if not self._is_upgrade_requested:
            super().on_message_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Return whether the connection stays open: the client may read on although it sends no
        more.
        """
        if (
            not (IS_SUPPORTED and self.scheme == "http" and self._is_answering())
            or self.cycle.more_body
        ):
            return None
        self._half_close_prober = HalfCloseProber(
            self.transport, self._make_probe, self.transport.abort
        )
        return True

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_probe(self) -> bytes | None:
        cycle = self.cycle
        return make_probe(
            http_version=cycle.scope["http_version"],
            response_started=cycle.response_started,
            is_chunked=bool(cycle.chunked_encoding),
        )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_close_prober is not None and not self.pipeline and not self._is_answering():
            self._half_close_prober.cancel()
            self.transport.close()


@lru_cache(256)
def _is_valid_host(value: bytes) -> bool:
    """Return whether a Host header's value has only signs of a host and a port (RFC 3986 section
    3.2.2).
    """
    return _HOST_PATTERN.fullmatch(value) is not None


def make_refusal_app(error: GatewayError) -> App:
    """Return an application that answers with an error and ends the connection."""

    async def send_refusal(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_error(
            send,
            error,
            new_refused_id(),
            [("connection", "close")],
            body=encode_error_body(scope, error),
        )

    return send_refusal


async def _send_unframed(cycle: RequestResponseCycle, send: Send, message: Message) -> None:
    """Send to an HTTP/1.0 client: a body without a length ends with the connection (RFC 9112
    section 6.3).

    uvicorn would write chunks, and holds a body without chunks to its Content-Length.
    """
    if message["type"] == "http.response.start":
        cycle.chunked_encoding = False
    else:
        cycle.expected_content_length = len(message.get("body", b""))
    await send(message)
