"""The comparison's medians, its table, and where it goes on the page."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.case import Case
from bench.comparison import BEGIN, END, between_markers, error_lines, markdown_table, medians
from bench.figures import Percentiles, Row
from bench.yardsticks import Target, row_of

PAGE = Path(__file__).parents[3] / "docs/benchmarks.md"
NONE = Percentiles(math.nan, math.nan, math.nan)


def rows(server: str, rate: float) -> list[Row]:
    """A round of one server."""
    sync = Row(
        server,
        "sync",
        32,
        2000,
        0,
        {},
        rate,
        0.0,
        NONE,
        NONE,
        Percentiles(1.0, 2.0, 3.0),
        {"it": 1.0},
    )
    stream = replace(sync, case="stream", tokens=1_000_000, tokens_per_s=10 * rate, cpu={"it": 4.0})
    return [sync, stream, replace(sync, concurrency=1)]


def test_of_several_rounds_the_median_counts_and_errors_add_up() -> None:
    first, _, _ = rows("a", 1.0)
    others = [
        replace(first, requests_per_s=9.0, errors={"closed": 2}),
        replace(first, requests_per_s=5.0, errors={"closed": 1}),
    ]
    found = medians([first, *others])
    assert found.requests_per_s == 5.0
    assert found.errors == {"closed": 3}
    assert found.requests == 6000
    assert found.cpu_per_unit("it") == pytest.approx(0.5)


def test_the_table_has_median_range_and_ratio_of_each_server() -> None:
    rounds = [
        *rows("ours", 100.0),
        *rows("theirs", 10.0),
        *rows("ours", 300.0),
        *rows("theirs", 20.0),
        *rows("ours", 150.0),
    ]
    ours = markdown_table(rounds, "theirs").splitlines()[2].strip("| ").split(" | ")
    assert ours == [
        "ours",
        "150 (100 to 300)",
        "10.0 x",
        "1,500 (1,000 to 3,000)",
        "10.0 x",
        "1.00",
        "3.00",
        "0.50",
        "4.00",
    ]


def test_errors_are_listed() -> None:
    failed = replace(rows("a", 1.0)[0], errors={"closed": 2})
    assert error_lines([failed, *rows("b", 1.0)]) == [
        "- a, sync c=32: 2 times `closed` beside 2000 good ones"
    ]


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = between_markers(page, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert between_markers(once, "new") == once


@pytest.mark.parametrize(
    "page", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"]
)
def test_a_page_without_just_one_pair_of_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="section of results"):
        between_markers(page, "new")


def test_the_page_of_benchmarks_has_the_markers() -> None:
    assert "new" in between_markers(PAGE.read_text(), "new")


def test_what_another_load_generator_printed_becomes_a_row() -> None:
    times = {"n": 1, "p50": 1.5, "p90": 2.5, "p99": 3.5}
    nothing = {"n": 0, "p50": None, "p90": None, "p99": None}
    printed = {
        "ok": 7,
        "tokens": 448,
        "failures": {"order": 1, "timeout": 0},
        "req_per_s": 3.5,
        "tokens_per_s": 224.0,
    }
    found = row_of(
        {**printed, "ttft_ms": times, "gap_ms": nothing, "latency_ms": times},
        Target("a", "http://a"),
        Case("stream", 32, True),
    )
    assert found.key == ("a", "stream", 32)
    assert (found.requests, found.tokens, found.errors) == (7, 448, {"order": 1})
    assert (found.requests_per_s, found.tokens_per_s) == (3.5, 224.0)
    assert found.whole_ms == Percentiles(1.5, 2.5, 3.5)
    assert math.isnan(found.gap_ms.p99)
