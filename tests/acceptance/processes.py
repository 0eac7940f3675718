"""A real process under test: started, signalled, watched, its output kept in a file."""

import asyncio
import inspect
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 90.0  # seconds; only a failing test waits for so long
_TAIL_LINES = 60

Condition = Callable[[], bool | Awaitable[bool]]


async def until(condition: Condition, what: str, seconds: float = PATIENCE) -> None:
    """Waits for a condition. Raises AssertionError, naming `what`, if it does not come."""
    end = time.monotonic() + seconds
    while True:
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        assert time.monotonic() < end, f"waited {seconds:g} s for: {what}"
        await asyncio.sleep(0.02)


async def get_json(url: str, key: str = "") -> tuple[int, Any]:
    """Status and document of a GET; (0, None) where nobody answers."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError):
        return 0, None


class Process:
    """Started at once; `restart` starts the same command again. What it prints goes to
    `<directory>/<name>.log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._directory = directory
        self._log = directory / f"{name}.log"
        self._told_to_end = False
        self._popen = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._told_to_end = False
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be ended with it
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def log(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.splitlines()[-_TAIL_LINES:])

    @property
    def died(self) -> bool:
        """It has ended though nobody told it to."""
        return not self.running and not self._told_to_end

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._told_to_end = True
        self._popen.kill()
        self._popen.wait()

    def terminate(self) -> None:
        """SIGTERM; `ended` waits for the end."""
        self._told_to_end = True
        self._popen.terminate()

    def stop(self) -> None:
        """SIGSTOP: it stands still until `cont`."""
        self._popen.send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        self._popen.send_signal(signal.SIGCONT)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Waits for the end; gives the exit status, negative for a signal."""
        self._told_to_end = True
        await until(lambda: not self.running, f"the end of {self.name}", seconds)
        return self._popen.returncode

    async def ready(self) -> None:
        """Returns when it does its work. Raises AssertionError, with its last lines, if it ends
        before or takes too long.
        """
        try:
            await until(self._is_ready_or_died, f"{self.name} to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail}") from None
        assert self.running, f"{self.name} ended with status {self._popen.returncode}\n{self.tail}"

    async def restart(self) -> None:
        """Starts it again after its end, with the same name, port and environment; returns when it
        is ready.
        """
        self.start_again()
        await self.ready()

    def start_again(self) -> None:
        """The same, without waiting until it is ready."""
        assert not self.running, f"{self.name} still runs"
        self._popen = self._start()

    async def is_ready(self) -> bool:
        return self.running

    async def _is_ready_or_died(self) -> bool:
        return not self.running or await self.is_ready()

    def clear_away(self) -> None:
        """At the test's end: kills it and its children, whatever state they are in."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
