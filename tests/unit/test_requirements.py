"""Pinned packages carry hashes, and every install of them demands the hashes."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PINNED = sorted(TOP.glob("requirements*.txt"))
INSTALLERS = ["Makefile", "Dockerfile", "app/agent/Dockerfile"]


@pytest.mark.parametrize("path", PINNED, ids=lambda path: str(path.name))
def test_every_pinned_package_has_hashes(path: Path) -> None:
    logical_lines = path.read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in logical_lines if re.match(r"\w", line)]
    assert pins
    assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("path", PINNED, ids=lambda path: str(path.name))
def test_no_index_address_is_in_the_pins(path: Path) -> None:
    assert (
        re.findall(
            r"https?://|--(?:extra-)?index-url|--find-links|--trusted-host", path.read_text()
        )
        == []
    )


def test_pip_and_setuptools_are_pinned_too_where_a_package_needs_them() -> None:
    pins = (TOP / "requirements-dev.txt").read_text()
    assert {"pip", "setuptools"} <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))


@pytest.mark.parametrize("name", INSTALLERS)
def test_an_install_of_the_pins_demands_their_hashes(name: str) -> None:
    installs = re.findall(r"install .*-r requirements.*", (TOP / name).read_text())
    assert installs
    assert [install for install in installs if "--require-hashes" not in install] == []
