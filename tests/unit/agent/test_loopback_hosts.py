"""An upstream on localhost inside a container is named at the start."""

from pathlib import Path

import pytest

from app.agent.loopback_hosts import warn_of_loopback_hosts
from app.config.model_entry import ECHO, ModelEntry


def warned(caplog: pytest.LogCaptureFixture, host: str, mark: Path) -> list[str]:
    warn_of_loopback_hosts([ECHO, ModelEntry(id="qwen", host=host)], [mark])
    return caplog.messages


@pytest.mark.parametrize(
    "host", ["http://localhost:8001", "http://127.0.0.1:8001/v1", "http://[::1]:8001"]
)
def test_in_a_container_a_loopback_host_is_warned_of(
    host: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = warned(caplog, host, tmp_path)
    assert line.startswith("model qwen: ")
    assert "host.docker.internal" in line


def test_in_a_container_another_host_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert warned(caplog, "http://host.docker.internal:8001", tmp_path) == []


def test_outside_a_container_loopback_is_this_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert warned(caplog, "http://localhost:8001", tmp_path / "absent") == []
