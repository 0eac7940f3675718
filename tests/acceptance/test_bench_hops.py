"""`python -m bench.hops` against a real broker."""

import asyncio
import os
import sys

import pytest

from tests.acceptance.stack import ROOT, SERVERS

pytestmark = pytest.mark.servers


async def test_two_hops_are_measured_with_and_without_a_pause() -> None:
    command = [sys.executable, "-m", "bench.hops", "--rounds", "10", "--pause", "2"]
    environment = {**os.environ, "BOOTSTRAP_SERVERS": SERVERS}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    lines = printed.decode().splitlines()
    assert process.returncode == 0
    assert [line.partition(":")[0] for line in lines] == [
        "two hops, 0 ms between",
        "two hops, 2 ms between",
    ]
    assert all(float(line.split()[6]) > 0 for line in lines)
