"""Measures any OpenAI-compatible server: rates, time to first token, gaps, whole latency.

python -m bench --base-url http://127.0.0.1:8000 --model echo --stream --concurrency 1,32
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.load import Amount, measure
from bench.options import add_outputs, counts, finish
from bench.plot import check, plot
from bench.processes import BenchError
from bench.question import question
from bench.report import Report, speed_table
from bench.warm_up import try_once


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--base-url", required=True, metavar="URL", help="for example http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--model", required=True, metavar="NAME")
    known_key = os.environ.get("OPENAI_API_KEY", "")
    parser.add_argument(
        "--api-key",
        default=known_key,
        metavar="KEY",
        help="else that of OPENAI_API_KEY, if there is one",
    )
    parser.add_argument("--stream", action="store_true", help="streamed replies; else whole ones")
    parser.add_argument(
        "--concurrency", type=counts, default=[1, 32, 256], metavar="N,...", help="1,32,256"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--requests", type=int, default=0, metavar="N", help="in all, at each concurrency"
    )
    amount.add_argument(
        "--duration",
        type=float,
        default=10,
        metavar="S",
        help="seconds at each concurrency (%(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=64,
        metavar="N",
        help="max_tokens of each request (%(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120,
        metavar="S",
        help="longest wait for a reply (%(default)s)",
    )
    add_outputs(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help=".svg, or .png where matplotlib is installed"
    )
    return parser.parse_args(given)


async def run(options: argparse.Namespace) -> int:
    old = Report.read(options.compare) if options.compare else None
    asked = question(
        options.base_url,
        options.model,
        stream=options.stream,
        max_tokens=options.tokens,
        key=options.api_key,
    )
    if options.plot:
        check(options.plot)
    await try_once(asked, options.timeout)
    report = Report()
    for concurrency in options.concurrency:
        amount = Amount(options.requests, options.duration, ramp=concurrency / 1000)
        tally = await measure(asked, concurrency, amount, options.timeout)
        report.rows.append(tally.row("", "stream" if options.stream else "sync", concurrency))
        for kind, example in tally.examples.items():
            print(f"c={concurrency}: {kind}: {example}", file=sys.stderr)
    print(speed_table(report.rows))
    finish(report, old, options.json)
    if options.plot:
        plot(report.rows, options.plot)
    return 0 if any(row.requests for row in report.rows) else 1


def main() -> int:
    try:
        return uvloop.run(run(arguments()))
    except (BenchError, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
