"""`make run-kafka`: the gateway and the workers on Kafka, each a process of its own, until Ctrl-C.

usage: python -m scripts.run_kafka GATEWAY_COMMAND...

The models are those of `make run`, read from the environment and `.env`: one worker process for
MODELS_FILE, one for FIRST_OPENAI_*, one for SECOND_OPENAI_*; with none of them one for the built-in
`echo`. A process that ends is named, and started again while the others go on; one whose settings
do not work (status 2) ends them all.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock, Thread
from types import FrameType
from typing import BinaryIO

from app.config import settings as app_settings
from app.config.model_entry import ECHO
from app.config.models_file import load_embedded_models
from app.config.settings import ModelSettings, Settings
from app.errors import SettingsError

WORKER_COMMAND = [sys.executable, "-m", "app.agent"]
LOCAL_KAFKA = "localhost:9093"  # of scripts/kafka.sh, and of the compose files for this machine
BAD_SETTINGS = 2  # the exit status of a gateway or worker whose settings do not work
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a process is started again
STEADY_SECONDS = 30.0  # after which the next pause is the first one's again
_LOOK_SECONDS = 0.1

_printing = Lock()


def worker_environments(models: ModelSettings) -> list[dict[str, str]]:
    """Return what makes each worker process serve its models, and no other's."""
    found = [{"MODELS_FILE": models.file, "OPENAI_MODEL_NAME": ""}] if models.file else []
    if models.first_name:
        found.append(
            _one_model(
                models.first_name, models.first_host, models.first_token, models.first_read_timeout
            )
        )
    if models.second_name:
        found.append(
            _one_model(
                models.second_name,
                models.second_host,
                models.second_token,
                models.second_read_timeout,
            )
        )
    return found or [_one_model(ECHO.id, "", "", None)]


def _one_model(name: str, host: str, token: str, read_timeout: float | None) -> dict[str, str]:
    return {
        "OPENAI_MODEL_NAME": name,
        "OPENAI_HOST": host,
        "OPENAI_TOKEN": token,
        "OPENAI_READ_TIMEOUT_SECONDS": f"{read_timeout:g}" if read_timeout else "",
        # Set for one worker alone, these would be the same for each.
        "MODELS_FILE": "",
        "KAFKA_REQUEST_TOPIC": "",
        "GROUP_ID": "",
    }


@dataclass
class Program:
    """One of the processes, and when it is started again after it has ended."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(repr=False)
    process: subprocess.Popen[bytes] | None = None
    pause: float = FIRST_PAUSE
    started: float = 0.0  # monotonic
    due: float = 0.0  # monotonic

    def start(self) -> None:
        """Start it in a process group of its own, so that the terminal's Ctrl-C reaches it through
        `run` alone.
        """
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            process_group=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        Thread(target=_copy_lines, args=(self.name, self.process.stdout), daemon=True).start()

    def plan_restart(self) -> float:
        """Return the seconds until it is started again: twice as many each time, unless it ran
        steadily.
        """
        if time.monotonic() - self.started > STEADY_SECONDS:
            self.pause = FIRST_PAUSE
        pause, self.pause = self.pause, min(2 * self.pause, LONGEST_PAUSE)
        self.process, self.due = None, time.monotonic() + pause
        return pause


def _copy_lines(name: str, output: BinaryIO) -> None:
    for line in output:
        say(f"[{name}] {line.decode(errors='replace').rstrip()}")


def say(line: str) -> None:
    """Write one line, whole, whichever thread it comes from."""
    with _printing:
        print(line, file=sys.stderr, flush=True)


def programs(settings: Settings, gateway_command: list[str]) -> list[Program]:
    """Return the gateway and the workers. The gateway has ADMIN_PORT, each worker one of the ports
    behind it.
    """
    shared = {
        **settings.environment,
        "BUS": "kafka",
        "BOOTSTRAP_SERVERS": settings.bus.servers or LOCAL_KAFKA,
    }
    if sys.stderr.isatty():
        shared.setdefault("LOG_FORMAT", "text")  # the processes themselves write to a pipe
    found = [Program("gateway", gateway_command, shared)]
    for number, own in enumerate(worker_environments(settings.models), 1):
        port = {"ADMIN_PORT": str(settings.admin.port + number)} if settings.admin.port else {}
        name = f"worker {own['OPENAI_MODEL_NAME'] or own['MODELS_FILE']}"
        found.append(Program(name, WORKER_COMMAND, {**shared, **own, **port}))
    return found


def run(all_programs: list[Program]) -> int:
    """Pass SIGINT and SIGTERM on, and start again what ends. Exit status 0 if it was told to
    stop.
    """
    status: int | None = None

    def stop(number: int, _frame: FrameType | None = None) -> None:
        nonlocal status
        status = status or 0
        for program in all_programs:
            if program.process is not None:
                program.process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for program in all_programs:
        program.start()
    while status is None or any(program.process is not None for program in all_programs):
        for program in all_programs:
            ended = program.process.poll() if program.process is not None else None
            if ended is not None and status is None and ended == BAD_SETTINGS:
                say(
                    f"run-kafka: {program.name} cannot work with its settings (see "
                    f"above); stopping "
                    f"the others"
                )
                program.process, status = None, 1
                stop(signal.SIGTERM)
            elif ended is not None and status is None:
                pause = program.plan_restart()
                say(
                    f"run-kafka: {program.name} ended with {_described(ended)}; started again in "
                    f"{pause:g} s"
                )
            elif ended is not None:
                program.process = None
            elif program.process is None and status is None and time.monotonic() >= program.due:
                program.start()
        time.sleep(_LOOK_SECONDS)
    return status


def _described(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def main() -> int:
    try:
        settings = app_settings.load_settings()
        load_embedded_models(settings)  # raises what a worker would
        return run(programs(settings, sys.argv[1:]))
    except SettingsError as error:
        print(f"run-kafka: {error}", file=sys.stderr)
        return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
