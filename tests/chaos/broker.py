"""A Kafka broker of one's own, which may be killed without disturbing anybody."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.acceptance.processes import until
from tests.acceptance.stack import ROOT
from tests.nginx import free_port

_SCRIPT = ROOT / "scripts" / "kafka.sh"
# of listeners
_KINDS = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", "SSL": "SSL", "SASL_SSL": "SASL_SSL"}
_PATIENCE = 60.0
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL


class Broker:
    """scripts/kafka.sh, with ports and data of its own; it suffers what a Process suffers."""

    name = "kafka"

    def __init__(self, directory: Path, *properties: str, listeners: Sequence[str] = ()) -> None:
        """`properties` are further lines of server.properties, `listeners` further listeners, such
        as SSL://127.0.0.1:9193.
        """
        self._data = directory / "kafka"
        port, controller = str(free_port()), str(free_port())
        self.servers = f"127.0.0.1:{port}"
        own = {
            "KAFKA_PORT": port,
            "KAFKA_CONTROLLER_PORT": controller,
            "KAFKA_DATA": str(self._data),
        }
        if listeners:
            all_ = ",".join((f"PLAINTEXT://{self.servers}", *listeners))
            properties += (
                f"listeners={all_},CONTROLLER://127.0.0.1:{controller}",
                f"advertised.listeners={all_}",
            )
            properties += (
                "listener.security.protocol.map="
                + ",".join(f"{name}:{kind}" for name, kind in _KINDS.items()),
            )
        own["KAFKA_EXTRA_PROPERTIES"] = "\n".join(properties)
        self._environment = {**os.environ, **own}
        # One start at a time: of two, the later would find no broker yet and the port taken.
        self._start = ["flock", "--close", directory / "kafka.lock", _SCRIPT, "start"]

    async def start(self) -> None:
        """Returns when it listens."""
        await asyncio.to_thread(
            subprocess.run, self._start, env=self._environment, check=True, capture_output=True
        )

    def start_again(self) -> None:
        """Starts it without waiting until it listens."""
        subprocess.Popen(
            self._start, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def log(self) -> Path:
        return self._data / "broker.log"

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    async def ended(self, seconds: float = _PATIENCE) -> None:
        """Alone, a controller waits long for others to take its place: it is ended as a container
        is.
        """
        with suppress(AssertionError):
            await until(lambda: not self._alive(), "the end of kafka", min(seconds, _GRACE))
            return
        self.kill()
        await until(lambda: not self._alive(), "the end of kafka", seconds)

    def clear_away(self) -> None:
        if self._alive():
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._pid(), number)

    def _pid(self) -> int:
        return int((self._data / "broker.pid").read_text())

    def _alive(self) -> bool:
        try:
            os.kill(self._pid(), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True
