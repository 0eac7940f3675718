"""What all tests share. How long an example takes says something of the machine, nothing of the
code: no deadlines.
"""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("ours", deadline=None)
settings.load_profile("ours")


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody listens on, and that no other process gets; a test may have a
    server come up on it.
    """
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
