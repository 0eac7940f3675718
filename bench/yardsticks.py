"""What measures in a comparison: our own upstream and load generator, or others of the same kind.

LOAD_TOOLS names a folder with two programs, `simup` (an upstream with numbered tokens) and
`sseload` (a load generator that prints one line of JSON). Whichever is used, every server of a
comparison is measured by the same one.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from bench.case import TOKENS, Case
from bench.figures import Percentiles, Row
from bench.load import Amount, measure
from bench.processes import BenchError
from bench.upstream import MODEL


@dataclass(frozen=True)
class Target:
    """A server under test."""

    name: str
    url: str
    key: str = ""


class Yardstick(Protocol):
    """An upstream and a load generator."""

    name: str

    def upstream_command(self, port: int) -> list[str]: ...

    async def measure(self, target: Target, case: Case, seconds: float) -> Row: ...


class OurOwn:
    """bench.upstream and bench.load. Every reply's tokens are counted; each connection's first is
    read, too.
    """

    name = "bench's own upstream and load generator"

    def upstream_command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "bench.upstream", "--port", str(port)]

    async def measure(self, target: Target, case: Case, seconds: float) -> Row:
        tally = await measure(
            case.question(target.url, target.key), case.concurrency, Amount(seconds=seconds)
        )
        return tally.row(target.name, case.name, case.concurrency)


class LoadTools:
    """simup and sseload, by their command lines. Every token's order is checked."""

    name = "simup and sseload"

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        for program in ("simup", "sseload"):
            if not os.access(self._folder / program, os.X_OK):
                raise BenchError(f"LOAD_TOOLS: {folder} has no program {program}")

    def upstream_command(self, port: int) -> list[str]:
        return [str(self._folder / "simup"), "--port", str(port), "--model", MODEL]

    async def measure(self, target: Target, case: Case, seconds: float) -> Row:
        options = [
            "--url",
            f"{target.url}/v1/chat/completions",
            "--model",
            MODEL,
            "--max-tokens",
            str(TOKENS),
        ]
        options += [
            "--expect-events",
            str(TOKENS),
            "-c",
            str(case.concurrency),
            "-d",
            f"{seconds:g}",
        ]
        options += ["--stream", "--check-order"] if case.stream else ["--no-stream"]
        options += ["--header", f"authorization: Bearer {target.key}"] if target.key else []
        process = await asyncio.create_subprocess_exec(
            self._folder / "sseload", *options, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        if process.returncode not in (0, 1):
            raise BenchError(f"sseload {' '.join(options)} ended with status {process.returncode}")
        return row_of(orjson.loads(printed), target, case)


def row_of(printed: dict[str, Any], target: Target, case: Case) -> Row:
    """What sseload printed, as a row."""
    return Row(
        target.name,
        case.name,
        case.concurrency,
        requests=printed["ok"],
        tokens=printed["tokens"] if case.stream else 0,
        errors={kind: count for kind, count in printed["failures"].items() if count},
        requests_per_s=printed["req_per_s"],
        tokens_per_s=printed["tokens_per_s"] if case.stream else 0.0,
        first_ms=_percentiles(printed["ttft_ms"]),
        gap_ms=_percentiles(printed["gap_ms"]),
        whole_ms=_percentiles(printed["latency_ms"]),
    )


def _percentiles(printed: dict[str, float | None]) -> Percentiles:
    return Percentiles(*(_number(printed.get(name)) for name in Percentiles._fields))


def _number(printed: float | None) -> float:
    return float("nan") if printed is None else printed


def yardstick() -> Yardstick:
    """As LOAD_TOOLS says. Raises BenchError where the programs are not there."""
    folder = os.environ.get("LOAD_TOOLS")
    return LoadTools(Path(folder)) if folder else OurOwn()
