"""The TLS example, as it stands in nginx/tls.example.conf, in front of the project's own nginx."""

import json
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.integration.front import (
    BODY,
    PATH,
    PATIENCE,
    Front,
    nginx_before,
    reply,
    send_chunk,
    send_stream_head,
)
from tests.nginx import free_port, listens

pytestmark = pytest.mark.servers
EXAMPLE = Path(__file__).parents[2] / "nginx" / "tls.example.conf"


@contextmanager
def tls_before(there: Front, folder: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Run the example with the ports and the certificate of this test; give its port, and who
    trusts it.
    """
    port, key, certificate = free_port(), folder / "key.pem", folder / "fullchain.pem"
    made = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-out",
        str(certificate),
    ]
    new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        str(key),
    ]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *new_key, *made], check=True, capture_output=True
    )
    text = (
        EXAMPLE.read_text()
        .replace("/etc/ssl/llm-gateway", str(folder))
        .replace(":8000;", f":{there.port};")
    )
    text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
    (folder / "nginx.conf").write_text(
        f"daemon off; pid nginx.pid; events {{}} http "
        f"{{ access_log off; client_body_temp_path body; {text} }}"
    )
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not listens(port):
                assert process.poll() is None, "nginx ended"
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            yield port, ssl.create_default_context(cafile=str(certificate))
        finally:
            process.send_signal(signal.SIGTERM)


def request(port: int, **headers: str) -> urllib.request.Request:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib.request.Request(f"https://localhost:{port}{PATH}", BODY, sent)


def test_a_request_comes_through_tls_and_both_proxies_with_its_own_address(tmp_path: Path) -> None:
    with (
        nginx_before(reply(200), PROXIES_IN_FRONT="127.0.0.1") as there,
        tls_before(there, tmp_path) as (port, trust),
    ):
        asked = request(port, Authorization="Bearer k", X_Forwarded_For="192.0.2.1")
        with urllib.request.urlopen(asked, context=trust, timeout=PATIENCE) as answer:
            assert answer.headers["Strict-Transport-Security"]
        (seen,) = there.gateways[0].seen
    assert seen.body == BODY
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["host"] == "localhost"
    # the address that it came from, not the one that it wrote
    assert seen.headers["x-forwarded-for"] == "127.0.0.1"


def test_each_event_of_a_stream_comes_at_once(tmp_path: Path) -> None:
    first_was_read = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send_stream_head(handler)
        send_chunk(handler, b"data: 1\n\n")
        assert first_was_read.wait(PATIENCE)
        send_chunk(handler, b"data: 2\n\n")
        send_chunk(handler, b"")

    with (
        nginx_before(answer) as there,
        tls_before(there, tmp_path) as (port, trust),
        urllib.request.urlopen(request(port), context=trust, timeout=PATIENCE) as stream,
    ):
        assert stream.readline() == b"data: 1\n"
        first_was_read.set()
        assert stream.read() == b"\ndata: 2\n\n"


def test_an_error_of_the_gateway_arrives_as_it_is(tmp_path: Path) -> None:
    body = json.dumps({"error": {"code": "rate_limit_exceeded"}}).encode()
    with (
        nginx_before(reply(429, body, Retry_After="7")) as there,
        tls_before(there, tmp_path) as (port, trust),
    ):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request(port), context=trust, timeout=PATIENCE)
        assert (raised.value.code, raised.value.headers["Retry-After"], raised.value.read()) == (
            429,
            "7",
            body,
        )
