"""One answer of several processes: each sample with the process it is of, each metric once."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.telemetry.siblings import Siblings, merged


def registry(count: float) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("answered", "Answers.", ["model"], registry=made).labels('a "quoted" one\n').inc(count)
    Histogram("wait_seconds", "Waits.", buckets=[1, 5], registry=made).observe(count)
    Gauge("depth", "Depth.", registry=made).set(count)
    return made


def test_each_metric_is_there_once_and_each_sample_by_its_process():
    text = merged({"11": generate_latest(registry(2)), "12": generate_latest(registry(7))}).decode()
    assert text.count("# TYPE answered_total counter") == 1
    samples = [
        line for line in text.splitlines() if not line.startswith("#") and "_created" not in line
    ]
    assert 'answered_total{model="a \\"quoted\\" one\\n",pid="11"} 2.0' in samples
    assert 'answered_total{model="a \\"quoted\\" one\\n",pid="12"} 7.0' in samples
    assert [line for line in samples if "wait" in line and '"12"' in line] == [
        'wait_seconds_bucket{le="1.0",pid="12"} 0.0',
        'wait_seconds_bucket{le="5.0",pid="12"} 0.0',
        'wait_seconds_bucket{le="+Inf",pid="12"} 1.0',
        'wait_seconds_count{pid="12"} 1.0',
        'wait_seconds_sum{pid="12"} 7.0',
    ]


@pytest.fixture
def directory(monkeypatch) -> Iterator[Path]:
    """Not below tmp_path: a socket's path has room for 107 characters."""
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        yield Path(short) / f"llm-gateway-{os.getuid()}-{os.getppid()}"


async def test_all_that_answer_are_told_of_and_one_that_was_killed_is_left_out(
    directory, monkeypatch
):
    asked = Siblings(registry(2))
    async with AsyncExitStack() as stack:
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: 4711)
            await stack.enter_async_context(Siblings(registry(3)).heard())
        await stack.enter_async_context(asked.heard())
        (directory / "4712.sock").touch()
        text = (await asked.text()).decode()
    assert 'depth{pid="4711"} 3.0' in text
    assert f'depth{{pid="{os.getpid()}"}} 2.0' in text
    assert "4712" not in text
    assert [path.name for path in directory.iterdir()] == ["4712.sock"]


async def test_a_directory_that_is_somebody_elses_is_not_used(directory, monkeypatch, caplog):
    theirs = directory.with_name("theirs")
    theirs.mkdir()
    directory.symlink_to(theirs)
    siblings = Siblings(registry(2))
    async with siblings.heard():
        assert "somebody else's" in caplog.text
        assert "depth 2.0" in (await siblings.text()).decode()
    assert list(theirs.iterdir()) == []


async def test_where_nothing_temporary_can_be_written_each_tells_of_itself(monkeypatch, caplog):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    siblings = Siblings(registry(2))
    async with siblings.heard():
        assert "No usable temporary directory" in caplog.text
        assert "depth 2.0" in (await siblings.text()).decode()
