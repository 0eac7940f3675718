"""Rows as tables for people, as JSON for machines, and as ratios to an earlier run."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench.figures import Percentiles, Row

_FASTER = "requests/s", "tokens/s"


@dataclass
class Report:
    """What one command measured. `peak_mib` is the most memory of each process, by part."""

    rows: list[Row] = field(default_factory=list)
    peak_mib: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON."""
        document = {
            "machine": machine(),
            "peak_mib": self.peak_mib,
            "rows": [row.document() for row in self.rows],
        }
        path.write_bytes(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Raises ValueError for a file that `write` did not write."""
        try:
            document = orjson.loads(path.read_bytes())
            return cls([Row.of(row) for row in document["rows"]], document["peak_mib"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a report of bench ({error!r})") from error


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; all but the first end at the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(pairs)
        )
        for pairs in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def speed_table(rows: Sequence[Row]) -> str:
    """Rates, times in milliseconds as p50/p90/p99, and errors."""
    head = ("", "requests/s", "tokens/s", "first ms", "gap ms", "whole ms", "ok", "errors")
    return text_table(head, [_speed(row) for row in rows])


def _speed(row: Row) -> tuple[str, ...]:
    tokens = number(row.tokens_per_s) if row.streamed else ""
    gap = spread(row.gap_ms) if row.streamed else ""
    errors = ", ".join(f"{count} {kind}" for kind, count in row.errors.items()) or "0"
    times = (spread(row.first_ms), gap, spread(row.whole_ms))
    return (
        f"{row.case} c={row.concurrency}",
        number(row.requests_per_s),
        tokens,
        *times,
        str(row.requests),
        errors,
    )


def cpu_table(rows: Sequence[Row]) -> str:
    """CPU seconds by process: per 1,000 requests, of streams per million tokens."""
    names = list(dict.fromkeys(name for row in rows for name in row.cpu))
    head = ("CPU seconds", "per", *names, "all")
    return text_table(
        head, [(f"{row.case} c={row.concurrency}", _unit(row), *_cpu(row, names)) for row in rows]
    )


def _unit(row: Row) -> str:
    return "million tokens" if row.streamed else "1,000 requests"


def _cpu(row: Row, names: Sequence[str]) -> list[str]:
    values = [row.cpu_per_unit(name) for name in names]
    return [number(value) for value in (*values, sum(values))]


def cost_table(rows: Sequence[Row], direct: Sequence[Row]) -> str:
    """What the way over us adds to the way straight to the upstream, in milliseconds, and the share
    of its rate that is left.
    """
    straight = {(row.case, row.concurrency): row for row in direct}
    head = ("added to straight", "first p50", "first p99", "whole p50", "whole p99", "rate left")
    pairs = [
        (row, straight[row.case, row.concurrency])
        for row in rows
        if (row.case, row.concurrency) in straight
    ]
    return text_table(head, [_cost(row, other) for row, other in pairs])


def _cost(row: Row, other: Row) -> tuple[str, ...]:
    first = (row.first_ms.p50 - other.first_ms.p50, row.first_ms.p99 - other.first_ms.p99)
    whole = (row.whole_ms.p50 - other.whole_ms.p50, row.whole_ms.p99 - other.whole_ms.p99)
    left = ratio(rate(row), rate(other))
    return (
        f"{row.case} c={row.concurrency}",
        *(number(value) for value in (*first, *whole)),
        number(left),
    )


def comparison_table(new: Sequence[Row], old: Sequence[Row]) -> str:
    """New over old. Above 1 is better for the rates, worse for times and CPU."""
    before = {row.key: row for row in old}
    head = (
        "new / old",
        *_FASTER,
        "first p50",
        "first p99",
        "gap p99",
        "whole p50",
        "whole p99",
        "CPU",
    )
    return text_table(head, [_compared(row, before[row.key]) for row in new if row.key in before])


def _compared(row: Row, old: Row) -> tuple[str, ...]:
    ratios = (
        ratio(row.requests_per_s, old.requests_per_s),
        ratio(row.tokens_per_s, old.tokens_per_s),
        ratio(row.first_ms.p50, old.first_ms.p50),
        ratio(row.first_ms.p99, old.first_ms.p99),
        ratio(row.gap_ms.p99, old.gap_ms.p99),
        ratio(row.whole_ms.p50, old.whole_ms.p50),
        ratio(row.whole_ms.p99, old.whole_ms.p99),
        ratio(_all_cpu(row), _all_cpu(old)),
    )
    return (
        f"{row.part} {row.case} c={row.concurrency}".strip(),
        *(number(value) for value in ratios),
    )


def _all_cpu(row: Row) -> float:
    return sum(row.cpu_per_unit(name) for name in row.cpu)


def memory_list(peak_mib: Mapping[str, float]) -> str:
    """One line for a part."""
    return ", ".join(f"{name} {mib:.0f}" for name, mib in peak_mib.items())


def rate(row: Row) -> float:
    """Tokens a second of a stream, requests a second of the rest."""
    return row.tokens_per_s if row.streamed else row.requests_per_s


def ratio(new: float, old: float) -> float:
    """NaN where there is nothing to divide by."""
    return new / old if old else math.nan


def spread(times: Percentiles) -> str:
    return "/".join(number(value) for value in times)


def number(value: float) -> str:
    """Three digits that count; a dash for none."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
