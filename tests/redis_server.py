"""A real redis-server on a free port of 127.0.0.1, empty, without files."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.nginx import free_port, listens


@contextmanager
def running_redis(port: int = 0, password: str = "") -> Iterator[str]:
    """Gives its address, for REDIS_URL; on that port, or a free one. Raises AssertionError where it
    does not come up.
    """
    port = port or free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    command += ["--requirepass", password] if password else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)
        yield f"redis://{f':{password}@' if password else ''}127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(timeout=20)
