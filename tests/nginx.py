"""Real nginx (Debian's will do), from the project's own configuration, in front of gateways on
127.0.0.1.
"""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START = Path(__file__).parents[1] / "nginx" / "start.sh"


# below those that the system gives to whoever connects, and to other tests that ask it for one
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def listens(port: int) -> bool:
    """Whether somebody answers on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_nginx(
    gateway_ports: Sequence[int],
    settings: Mapping[str, str] | None = None,
    port: int | None = None,
    log_to: Path | None = None,
) -> Iterator[int]:
    """Runs nginx/start.sh in front of `gateway_ports`; gives the port that nginx listens on.

    `settings` are start.sh's variables, for instance {"MAX_BODY_BYTES": "1000"}. What it says goes
    behind the end of `log_to`, if there is one. Raises AssertionError, with nginx's own words,
    where it does not come up.
    """
    port = port or free_port()
    gateways = " ".join(f"127.0.0.1:{gateway}" for gateway in gateway_ports)
    with (
        tempfile.TemporaryDirectory() as run_dir,
        open(log_to or Path(run_dir) / "log", "ab") as log,
    ):
        environment = {
            "PATH": os.environ["PATH"],
            "LISTEN": f"127.0.0.1:{port}",
            "GATEWAYS": gateways,
            "RUN_DIR": run_dir,
        }
        process = subprocess.Popen(
            [START], env=environment | dict(settings or {}), stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                said = Path(log.name).read_text()
                assert process.poll() is None, f"nginx ended: {said}"
                assert time.monotonic() < deadline, f"nginx does not listen: {said}"
                time.sleep(0.02)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
