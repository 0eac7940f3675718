"""`make env` makes .env for its owner alone, with passwords, and leaves what is set as it is."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

TOP = Path(__file__).parents[2]
PASSWORDS = ["KAFKA_UI_PASSWORD", "GRAFANA_PASSWORD", "REDIS_PASSWORD"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", ".env.example", "scripts/env.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    return tmp_path


def make_env(checkout: Path) -> str:
    return run_make(checkout, "env")


def run_make(checkout: Path, *arguments: str) -> str:
    """Run make as from a shell: `make test` has set MAKEFLAGS for what it runs."""
    paths = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=paths, capture_output=True, text=True, check=True
    ).stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_the_example_with_passwords_and_only_its_owner_reads_it(checkout: Path) -> None:
    make_env(checkout)
    values = dotenv_values(checkout / ".env")
    assert mode(checkout / ".env") == 0o600
    assert len({values[name] for name in PASSWORDS}) == 3
    assert all(len(values[name] or "") == 48 for name in PASSWORDS)
    example = dotenv_values(checkout / ".env.example")
    assert {name: value for name, value in values.items() if name not in PASSWORDS} == example


def test_a_copy_made_by_hand_is_closed_to_others_and_completed(checkout: Path) -> None:
    (checkout / ".env").write_text(
        "FIRST_OPENAI_TOKEN=t\nGRAFANA_PASSWORD=mine # ours\nREDIS_PASSWORD=\n# the end"
    )
    (checkout / ".env").chmod(0o644)
    make_env(checkout)
    values = dotenv_values(checkout / ".env")
    assert mode(checkout / ".env") == 0o600
    assert values["FIRST_OPENAI_TOKEN"] == "t"
    assert values["GRAFANA_PASSWORD"] == "mine"
    assert values["REDIS_PASSWORD"]
    assert values["KAFKA_UI_PASSWORD"]


def test_a_second_time_nothing_changes(checkout: Path) -> None:
    make_env(checkout)
    before = (checkout / ".env").read_text()
    assert make_env(checkout) == ""
    assert (checkout / ".env").read_text() == before


def test_no_password_is_printed(checkout: Path) -> None:
    printed = make_env(checkout)
    values = dotenv_values(checkout / ".env")
    assert [name for name in PASSWORDS if (values[name] or "") in printed] == []


@pytest.mark.parametrize("target", ["up", "restart"])
def test_what_starts_the_containers_makes_it_first(checkout: Path, target: str) -> None:
    run_make(checkout, target, "COMPOSE=true")
    assert mode(checkout / ".env") == 0o600
