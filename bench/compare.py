"""`make bench-compare`: this gateway beside LiteLLM, vllm-router and the way straight to the
upstream, in one run.

usage: python -m bench.compare [options] -- GATEWAY_COMMAND...

All servers run at once and are measured in turns, round after round, so that what else the machine
does meets each of them. The results go into docs/benchmarks.md. LOAD_TOOLS, DURATION (seconds of
each case) and BOOTSTRAP_SERVERS are read from the environment.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app import __version__
from bench.case import TOKENS, Case
from bench.comparison import between_markers, error_lines, markdown_table, medians
from bench.deployments import Deployment, on_kafka, straight
from bench.figures import Row
from bench.options import add_outputs, finish
from bench.processes import ROOT, Process, end_in_order, free_port, status_of
from bench.question import question
from bench.report import Report, cpu_table, machine, memory_list, speed_table
from bench.rivals import LITELLM, VLLM_ROUTER, fetch, litellm, vllm_router
from bench.upstream import MODEL
from bench.warm_up import BROKER, SHORT, warm_up
from bench.yardsticks import Target, Yardstick, yardstick

PAGE = ROOT / "docs/benchmarks.md"
OURS, RIVAL = "this gateway, over Kafka", "LiteLLM, one worker"
CASES = (Case("sync", 32, False), Case("stream", 32, True), Case("sync", 1, False))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="medians of so many (%(default)s)"
    )
    seconds = os.environ.get("DURATION") or 10  # a stream of LiteLLM's takes 4 of them
    parser.add_argument(
        "--duration",
        type=float,
        default=seconds,
        metavar="S",
        help="seconds of each case (%(default)s)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=PAGE,
        metavar="FILE",
        help="where the results go (docs/benchmarks.md)",
    )
    parser.add_argument(
        "gateway",
        nargs="+",
        metavar="GATEWAY_COMMAND",
        help="what starts the gateway; --port is added",
    )
    add_outputs(parser)
    return parser.parse_args()


class Comparison:
    """The servers that run, and what was measured of them so far."""

    def __init__(self, measure: Yardstick, seconds: float) -> None:
        self.rounds: list[Row] = []
        self._yardstick = measure
        self._seconds = seconds
        self._running: dict[str, Deployment] = {}

    async def add(self, name: str, deployment: Deployment) -> None:
        """Raises BenchError if it does not answer as it should."""
        self._running[name] = deployment
        asked = [
            question(deployment.url, MODEL, stream=on, max_tokens=TOKENS, key=deployment.key)
            for on in (False, True)
        ]
        await warm_up(asked[0], asked[1], BROKER if name == OURS else SHORT)

    async def round(self) -> None:
        """Each case of each server once."""
        for case in CASES:
            for name, deployment in self._running.items():
                self.rounds.append(await self._measure(name, deployment, case))
                print(".", end="", file=sys.stderr, flush=True)

    async def _measure(self, name: str, deployment: Deployment, case: Case) -> Row:
        before = {process: measured.cpu() for process, measured in deployment.processes.items()}
        row = await self._yardstick.measure(
            Target(name, deployment.url, deployment.key), case, self._seconds
        )
        return replace(
            row,
            cpu={
                process: measured.cpu() - before[process]
                for process, measured in deployment.processes.items()
            },
        )

    def report(self) -> Report:
        """The medians."""
        keys = dict.fromkeys(row.key for row in self.rounds)
        peaks = {
            name: {p: measured.peak_mib() for p, measured in each.processes.items()}
            for name, each in self._running.items()
        }
        return Report(
            [medians([row for row in self.rounds if row.key == key]) for key in keys], dict(peaks)
        )


def section(
    rounds: Sequence[Row], report: Report, options: argparse.Namespace, by: str, load: float
) -> str:
    """What goes between the page's markers; `load` is the machine's before it began."""
    of = machine()
    kafka = re.search(r"^VERSION=(.+)$", (ROOT / "scripts/kafka.sh").read_text(), re.MULTILINE)
    broker = (
        f"Kafka {kafka[1]}"
        if kafka and not os.environ.get("BOOTSTRAP_SERVERS")
        else "a Kafka that ran before"
    )
    drivers = ", ".join(
        f"{name} {version(name)}" for name in ("uvicorn", "confluent-kafka", "httptools")
    )
    memory = [f"- {name}: {memory_list(peaks)}" for name, peaks in report.peak_mib.items() if peaks]
    errors = error_lines(report.rows)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {of['cores']} cores ({of['processor']}) shared by "
        f"everything, Python {of['python']},",
        f"load average before: {load:.1f}.",
        f"Ours {__version__} ({drivers}; {broker}), {LITELLM}, {VLLM_ROUTER}. Measured by {by}.",
        f"Medians of {options.rounds} interleaved rounds of {options.duration:g} s "
        f"(lowest to highest); `x` is against LiteLLM.",
        "CPU: seconds of the server's own processes (ours: gateway, worker, broker) per "
        "1,000 requests, per million tokens.",
        "",
        markdown_table(rounds, RIVAL),
        "",
        "Peak memory, MiB:",
        "",
        *memory,
        "",
        *(["Errors:", "", *errors] if errors else ["No request failed."]),
    ]
    return "\n".join(lines)


async def run(options: argparse.Namespace) -> int:
    end_in_order()
    old = Report.read(options.compare) if options.compare else None
    between_markers(options.page.read_text(), "")  # before the minutes that it takes
    measure_by, load = yardstick(), os.getloadavg()[0]
    scratch = ROOT / ".bench"
    scratch.mkdir(exist_ok=True)
    for requirement in (LITELLM, VLLM_ROUTER):
        await fetch(requirement, scratch)
    async with AsyncExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-", dir=scratch))
        )
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        upstream = await stack.enter_async_context(
            Process("upstream", measure_by.upstream_command(port), directory)
        )
        await upstream.ready(f"{url}/v1/models")
        comparison = Comparison(measure_by, options.duration)
        for name, start in (
            (OURS, on_kafka(directory, options.gateway, url)),
            (RIVAL, litellm(scratch, directory, url)),
            ("vllm-router", vllm_router(scratch, directory, url)),
            ("straight to the upstream", straight(url)),
        ):
            await comparison.add(name, await stack.enter_async_context(start))
        for _ in range(options.rounds):
            await comparison.round()
        report = comparison.report()
    for part in dict.fromkeys(row.part for row in report.rows):
        rows = [row for row in report.rows if row.part == part]
        print(
            f"\n== {part}\n\n{speed_table(rows)}",
            *([f"\n{cpu_table(rows)}"] if rows[0].cpu else []),
            sep="\n",
        )
    finish(report, old, options.json)
    if not all(row.requests for row in report.rows):
        return 1
    options.page.write_text(
        between_markers(
            options.page.read_text(),
            section(comparison.rounds, report, options, measure_by.name, load),
        )
    )
    return 0


def main() -> int:
    return status_of(run(arguments()))


if __name__ == "__main__":
    sys.exit(main())
