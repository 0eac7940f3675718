"""`make run-kafka`: the gateway and the workers on Kafka, each a process of its own, until Ctrl-C or until one ends.

usage: python -m scripts.run_kafka GATEWAY_COMMAND...

The models are those of `make run`, read from the environment and `.env`: one worker process for MODELS_FILE, one for
FIRST_OPENAI_*, one for SECOND_OPENAI_*; with none of them one for the built-in `echo`.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

from app import settings as app_settings
from app.catalog import ECHO
from app.errors import SettingsError
from app.models_config import configured
from app.settings import ModelSettings, Settings

WORKER_COMMAND = [sys.executable, "-m", "app.agent"]
LOCAL_KAFKA = "localhost:9093"  # of scripts/kafka.sh, and of the compose files for this machine


def worker_environments(models: ModelSettings) -> list[dict[str, str]]:
    """What makes each worker process serve its models, and no other's."""
    found = [{"MODELS_FILE": models.file, "OPENAI_MODEL_NAME": ""}] if models.file else []
    if models.first_name:
        found.append(_one_model(models.first_name, models.first_host, models.first_token))
    if models.second_name:
        found.append(_one_model(models.second_name, models.second_host, models.second_token))
    return found or [_one_model(ECHO.id, "", "")]


def _one_model(name: str, host: str, token: str) -> dict[str, str]:
    return {
        "OPENAI_MODEL_NAME": name,
        "OPENAI_HOST": host,
        "OPENAI_TOKEN": token,
        # Set for one worker alone, these would be the same for each.
        "MODELS_FILE": "",
        "KAFKA_REQUEST_TOPIC": "",
        "GROUP_ID": "",
    }


def start(settings: Settings, gateway_command: list[str]) -> list[subprocess.Popen[bytes]]:
    """Starts all, in process groups of their own, so that the terminal's Ctrl-C reaches them through `run` alone."""
    shared = {**settings.environment, "BUS": "kafka", "BOOTSTRAP_SERVERS": settings.bus.servers or LOCAL_KAFKA}
    commands = [(gateway_command, shared)]
    commands += [(WORKER_COMMAND, {**shared, **own}) for own in worker_environments(settings.models)]
    return [subprocess.Popen(command, env=environment, process_group=0) for command, environment in commands]


def run(processes: list[subprocess.Popen[bytes]]) -> int:
    """Passes SIGINT and SIGTERM on; once one process ends, ends the others. Exit status 0 only if it was told to stop."""
    told = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if not told:
        print("run-kafka: a process ended by itself (see above); stopping the others", file=sys.stderr)
        for process in processes:
            process.terminate()
    for process in processes:
        process.wait()
    return 0 if told else 1


def main() -> int:
    try:
        settings = app_settings.load()
        configured(settings)  # raises what a worker would
        return run(start(settings, sys.argv[1:]))
    except SettingsError as error:
        print(f"run-kafka: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
