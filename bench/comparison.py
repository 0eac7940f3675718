"""The figures of a comparison, put together from its rounds and written as a section of a page."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from bench.figures import Percentiles, Row
from bench.report import number, rate, ratio

BEGIN = "<!-- results: begin; `make bench-compare` writes what stands between these two lines -->"
END = "<!-- results: end -->"


def medians(rows: Sequence[Row]) -> Row:
    """One row for several of the same case: the median of each figure, the sum of the errors."""
    kinds = dict.fromkeys(kind for row in rows for kind in row.errors)
    return replace(
        rows[0],
        requests=sum(row.requests for row in rows),
        tokens=sum(row.tokens for row in rows),
        errors={kind: sum(row.errors.get(kind, 0) for row in rows) for kind in kinds},
        requests_per_s=median(row.requests_per_s for row in rows),
        tokens_per_s=median(row.tokens_per_s for row in rows),
        first_ms=_median(rows, lambda row: row.first_ms),
        gap_ms=_median(rows, lambda row: row.gap_ms),
        whole_ms=_median(rows, lambda row: row.whole_ms),
        cpu={name: sum(row.cpu[name] for row in rows) for name in rows[0].cpu},
    )


def _median(rows: Sequence[Row], of: Callable[[Row], Percentiles]) -> Percentiles:
    return Percentiles(*(median(values) for values in zip(*(of(row) for row in rows), strict=True)))


def markdown_table(rounds: Sequence[Row], base: str) -> str:
    """A line for each server: median, and lowest to highest, of its rounds; `base` is what the
    ratios are to.
    """
    by_key: dict[tuple[str, str, int], list[Row]] = {}
    for row in rounds:
        by_key.setdefault(row.key, []).append(row)
    servers = list(dict.fromkeys(row.part for row in rounds))
    head = (
        "| | sync requests/s, c=32 | | streamed tokens/s, c=32 | | sync c=1, p50 ms | "
        "p99 ms | CPU: sync | stream |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for server in servers:
        sync, stream, alone = (
            by_key[server, *case] for case in (("sync", 32), ("stream", 32), ("sync", 1))
        )
        against = [
            _times(by_key[server, *case], by_key[base, *case])
            for case in (("sync", 32), ("stream", 32))
        ]
        whole = medians(alone).whole_ms
        cells = [
            server,
            _range(sync),
            against[0],
            _range(stream),
            against[1],
            number(whole.p50),
            number(whole.p99),
        ]
        lines.append("| " + " | ".join([*cells, _cpu(medians(sync)), _cpu(medians(stream))]) + " |")
    return "\n".join(lines)


def _range(rows: Sequence[Row]) -> str:
    values = sorted(rate(row) for row in rows)
    return f"{number(median(values))} ({number(values[0])} to {number(values[-1])})"


def _times(rows: Sequence[Row], base: Sequence[Row]) -> str:
    return f"{number(ratio(rate(medians(rows)), rate(medians(base))))} x"


def _cpu(row: Row) -> str:
    return number(sum(row.cpu_per_unit(name) for name in row.cpu)) if row.cpu else "-"


def error_lines(rounds: Sequence[Row]) -> list[str]:
    """What went wrong, a line for each case; none if nothing did."""
    return [
        f"- {row.part}, {row.case} c={row.concurrency}: {count} times `{kind}` beside "
        f"{row.requests} good ones"
        for row in rounds
        for kind, count in row.errors.items()
    ]


def between_markers(page: str, section: str) -> str:
    """The page with `section` between the two marker lines. Raises ValueError unless each stands
    there once, in their order.
    """
    found = re.fullmatch(f"(.*{re.escape(BEGIN)}\n).*({re.escape(END)}.*)", page, re.DOTALL)
    if not found or page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError("the page has not just one section of results")
    return f"{found[1]}\n{section.strip()}\n\n{found[2]}"
