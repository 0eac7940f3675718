"""What the commands of bench have in common: options, and what comes of them."""

import argparse
from pathlib import Path

from bench.report import Report, comparison_table


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """What every command of bench can write and read."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures there")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="also prints the ratios to an earlier --json",
    )


def counts(text: str) -> list[int]:
    """Whole numbers from 1, with commas between. Raises ValueError."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found


def finish(report: Report, old: Report | None, path: Path | None) -> None:
    """Does what `add_outputs` offers."""
    if path:
        report.write(path)
    if old:
        print(f"\n{comparison_table(report.rows, old.rows)}")
