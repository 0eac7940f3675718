"""Where `make run` serves: what make would do, without its doing it."""

import os
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def served_at(where: Path, *arguments: str, **environment: str) -> list[str]:
    """The addresses that `make run` and `make run-kafka` would serve on, from a folder with or
    without an `.env`.
    """
    options = ["--dry-run", f"--makefile={MAKEFILE}", "--assume-old=.venv/installed"]
    command, asked = (
        ["make", *options, "run", "run-kafka", *arguments],
        {"PATH": os.environ["PATH"], **environment},
    )
    said = subprocess.run(
        command, cwd=where, env=asked, capture_output=True, text=True, check=True
    ).stdout
    return [line.partition("--host ")[2] for line in said.splitlines() if "--host " in line]


def test_it_is_this_machine_if_nobody_says_another(tmp_path):
    assert served_at(tmp_path) == ["127.0.0.1 --port 8000"] * 2


def test_a_host_that_some_shell_exports_is_not_meant(tmp_path):
    assert served_at(tmp_path, HOST="x86_64-conda-linux-gnu") == ["127.0.0.1 --port 8000"] * 2


@pytest.mark.parametrize("name", ["HOST", "GATEWAY_HOST"])
def test_on_makes_command_line_either_name_is(tmp_path, name):
    assert (
        served_at(tmp_path, f"{name}=0.0.0.0", "PORT=80", HOST="other") == ["0.0.0.0 --port 80"] * 2
    )


def test_the_environment_wins_over_the_file(tmp_path):
    (tmp_path / ".env").write_text("GATEWAY_HOST=10.0.0.1  # ours\nPORT=81\n")
    assert served_at(tmp_path) == ["10.0.0.1 --port 81"] * 2
    assert served_at(tmp_path, GATEWAY_HOST="10.0.0.2") == ["10.0.0.2 --port 81"] * 2
