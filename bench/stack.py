"""`make bench`: this gateway measured from end to end, with all it needs started for it.

usage: python -m bench.stack [options] -- GATEWAY_COMMAND...

Parts: straight to the simulated upstream, the gateway on the memory bus, the gateway with a worker
on Kafka. In each part whole replies and streams without delays at each concurrency, and paced
streams at two. Read from the environment: DURATION (seconds of each case), QUICK=1 (the shortest
run that shows something), BOOTSTRAP_SERVERS.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import process_time

from bench.case import Case
from bench.deployments import Deployment, Measured, on_kafka, on_memory, straight, upstream
from bench.figures import Row
from bench.load import measure
from bench.options import add_outputs, counts, finish
from bench.processes import ROOT, end_in_order, peak_mib, status_of
from bench.report import Report, cost_table, cpu_table, machine, memory_list, speed_table
from bench.warm_up import BROKER, BROKER_QUICK, SHORT, WarmUp, warm_up

STRAIGHT = "straight to the upstream"


def cases(concurrencies: Sequence[int]) -> list[Case]:
    """In the order in which they are measured."""
    sync = [Case("sync", concurrency, False) for concurrency in concurrencies]
    streams = [Case("stream", concurrency, True) for concurrency in concurrencies]
    paced = [
        Case("stream, 50 ms + 20 ms", 32, True, 50, 20),
        Case("stream, 200 ms + 50 ms", 1000, True, 200, 50),
    ]
    return [*sync, *streams, *(case for case in paced if case.concurrency in concurrencies)]


class Bench:
    """One run of it: the parts one after another."""

    def __init__(
        self, seconds: float, concurrencies: Sequence[int], upstream_process: Measured
    ) -> None:
        self.report = Report()
        self._seconds = seconds
        self._cases = cases(concurrencies)
        self._upstream = upstream_process

    async def part(
        self, name: str, start: AbstractAsyncContextManager[Deployment], warm: WarmUp
    ) -> None:
        """Measures one deployment, after its warm-up, and prints its tables."""
        async with start as deployment:
            processes = {**deployment.processes, "upstream": self._upstream}
            unpaced = [Case("", 1, stream).question(deployment.url) for stream in (False, True)]
            await warm_up(unpaced[0], unpaced[1], warm)
            rows = [
                await self._measure(name, case, deployment.url, processes) for case in self._cases
            ]
            peaks = {process: measured.peak_mib() for process, measured in processes.items()}
            self.report.peak_mib[name] = {**peaks, "load": peak_mib()}
        before = [row for row in self.report.rows if row.part == STRAIGHT]
        self.report.rows += rows
        tables = [
            speed_table(rows),
            *([cost_table(rows, before)] if before else []),
            cpu_table(rows),
        ]
        memory = f"peak memory, MiB: {memory_list(self.report.peak_mib[name])}"
        print(f"\n== {name}", *tables, memory, sep="\n\n", flush=True)

    async def _measure(
        self, part: str, case: Case, url: str, processes: dict[str, Measured]
    ) -> Row:
        counted = {
            **{name: measured.cpu for name, measured in processes.items()},
            "load": process_time,
        }
        before = {name: cpu() for name, cpu in counted.items()}
        tally = await measure(case.question(url), case.concurrency, case.amount(self._seconds))
        spent = {name: cpu() - before[name] for name, cpu in counted.items()}
        for kind, example in tally.examples.items():
            print(f"{part}, {case.name} c={case.concurrency}: {kind}: {example}", file=sys.stderr)
        return tally.row(part, case.name, case.concurrency, spent)


def arguments() -> argparse.Namespace:
    quick = bool(os.environ.get("QUICK"))
    parser = argparse.ArgumentParser(
        prog="python -m bench.stack", description=(__doc__ or "").partition("\n")[0]
    )
    parser.set_defaults(quick=quick)
    seconds = os.environ.get("DURATION") or (1 if quick else 3)
    parser.add_argument(
        "--duration",
        type=float,
        default=seconds,
        metavar="S",
        help="seconds of each case (%(default)s)",
    )
    concurrencies = [1, 32] if quick else [1, 32, 256, 1000]
    parser.add_argument(
        "--concurrency", type=counts, default=concurrencies, metavar="N,...", help="1,32,256,1000"
    )
    parser.add_argument(
        "gateway",
        nargs="+",
        metavar="GATEWAY_COMMAND",
        help="what starts the gateway; --port is added",
    )
    add_outputs(parser)
    return parser.parse_args()


async def run(options: argparse.Namespace) -> int:
    end_in_order()
    old = Report.read(options.compare) if options.compare else None
    scratch = ROOT / ".bench"
    scratch.mkdir(exist_ok=True)
    print(", ".join(f"{name}: {value}" for name, value in machine().items()))
    with tempfile.TemporaryDirectory(prefix="stack-", dir=scratch) as name:
        directory = Path(name)
        async with upstream(directory) as (url, process):
            bench = Bench(options.duration, options.concurrency, process)
            await bench.part(STRAIGHT, straight(url), SHORT)
            await bench.part(
                "gateway on the memory bus", on_memory(directory, options.gateway, url), SHORT
            )
            await bench.part(
                "gateway and worker on Kafka",
                on_kafka(directory, options.gateway, url),
                BROKER_QUICK if options.quick else BROKER,
            )
    finish(bench.report, old, options.json)
    return 0 if all(row.requests for row in bench.report.rows) else 1


def main() -> int:
    return status_of(run(arguments()))


if __name__ == "__main__":
    sys.exit(main())
