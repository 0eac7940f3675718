"""The processes that are measured: started, waited for, their CPU time and memory read from /proc
(Linux), ended.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import uvloop

ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")
_PORTS = iter(range(9600, 9700))
# seconds for a process to be ready; LiteLLM takes half a minute on a busy machine
_PATIENCE = 120.0
_GRACE = 15.0  # seconds between SIGTERM and SIGKILL


class BenchError(Exception):
    """A process that cannot be measured; the message says which and why."""


def status_of(work: Coroutine[Any, Any, int]) -> int:
    """Runs it to its exit status: 2, with a line, where something cannot be measured; 130 where it
    was told to end.
    """
    try:
        return uvloop.run(work)
    except (BenchError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        return 130


def end_in_order() -> None:
    """Lets SIGINT and SIGTERM cancel the running task, so that all that was started is ended."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def free_port() -> int:
    """The next one of 9600-9699 that nobody listens on."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("no free port in 9600-9699")


class Process:
    """Starts at once, in a session of its own, so that its children are counted and ended with it.

    It runs in `directory`, where no `.env` lies; what it prints goes to `<directory>/<name>.log`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [_absolute(command[0]), *command[1:]],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.end)

    async def ready(self, url: str) -> Self:
        """Returns once a GET of `url` gets a 200. Raises BenchError, with its last lines, if it
        ends before or takes too long.
        """
        until = time.monotonic() + _PATIENCE
        while not await asyncio.to_thread(answers, url):
            if self._popen.poll() is not None or time.monotonic() > until:
                lines = self._log.read_text(errors="replace").splitlines()[-20:]
                raise BenchError(
                    "\n".join([f"{self.name} does not answer at {url}; its last lines:", *lines])
                )
            await asyncio.sleep(0.1)
        return self

    def cpu(self) -> float:
        """Seconds of user and system time, with its children's."""
        return session_cpu(self._popen.pid)

    def peak_mib(self) -> float:
        """The most memory it had resident, with its children's."""
        return session_peak_mib(self._popen.pid)

    def end(self) -> None:
        """SIGTERM, then SIGKILL for all that is left of its session."""
        self._popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


def _absolute(program: str) -> str:
    """A relative path is meant from here, not from where the process will run."""
    return str(Path(program).absolute()) if "/" in program else program


def answers(url: str) -> bool:
    """Whether a GET gets a 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def session_cpu(leader: int) -> float:
    """Seconds of all processes of a session, and of their children that have ended."""
    return sum(sum(int(value) for value in stat[11:15]) for _, stat in _session(leader)) / _TICKS


def session_peak_mib(leader: int) -> float:
    """The sum of their peaks."""
    return sum(peak_mib(pid) for pid, _ in _session(leader))


def peak_mib(pid: int | str = "self") -> float:
    """VmHWM of one process; 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _session(leader: int) -> Iterator[tuple[int, list[str]]]:
    """Process number and the fields of /proc/PID/stat behind the name (from the third, `state`) of
    each of its processes.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just ended
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(stat[3]) == leader:
                    yield int(entry.name), stat
