"""Percentiles, rows, tables and ratios."""

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.figures import Percentiles, Row, percentiles
from bench.plot import check, plot
from bench.report import Report, comparison_table, cost_table, cpu_table, number, ratio, speed_table

ONES = Percentiles(1.0, 2.0, 3.0)
NONE = Percentiles(math.nan, math.nan, math.nan)


def row(
    part: str = "",
    concurrency: int = 1,
    rate: float = 100.0,
    times: Percentiles = ONES,
    **more: object,
) -> Row:
    return Row(part, "sync", concurrency, 1000, 0, {}, rate, 0.0, times, NONE, times, **more)  # type: ignore[arg-type]


def cells(table: str, line: int) -> list[str]:
    return table.splitlines()[line].split()


@pytest.mark.parametrize(
    ("values", "zeros", "expected"),
    [
        ([0.004], 0, (4, 4, 4)),
        ([place / 1000 for place in range(100, 0, -1)], 0, (50, 90, 99)),
        ([0.001, 0.002], 0, (1, 2, 2)),
        ([0.005], 9, (0, 0, 5)),
        ([0.005, 0.006], 8, (0, 5, 6)),
        ([], 3, (0, 0, 0)),
    ],
)
def test_percentiles_are_by_nearest_rank(
    values: list[float], zeros: int, expected: tuple[float, ...]
) -> None:
    assert percentiles(values, zeros) == pytest.approx(expected)


def test_of_nothing_there_are_no_percentiles() -> None:
    assert all(math.isnan(value) for value in percentiles([]))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row("a", cpu={"gateway": 1.5}), row("b", times=NONE)]
    Report(rows, {"a": {"gateway": 64.0}}).write(tmp_path / "new.json")
    found = Report.read(tmp_path / "new.json")
    assert repr(found.rows) == repr(rows)  # NaN is not equal to itself
    assert found.peak_mib == {"a": {"gateway": 64.0}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{}], "peak_mib": {}}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"old\.json: not a report"):
        Report.read(path)


def test_a_comparison_shows_new_over_old_for_what_both_have() -> None:
    new = [row("a", 1, 150.0, Percentiles(2.0, 2.0, 6.0), cpu={"gateway": 3.0}), row("a", 32)]
    old = [row("a", 1, cpu={"gateway": 2.0, "kafka": 2.0}), row("b", 32)]
    table = comparison_table(new, old)
    assert len(table.splitlines()) == 3
    assert cells(table, 2) == [
        "a",
        "sync",
        "c=1",
        "1.50",
        "-",
        "2.00",
        "2.00",
        "-",
        "2.00",
        "2.00",
        "0.75",
    ]


def test_what_a_gateway_costs_is_the_difference_to_the_straight_way() -> None:
    table = cost_table(
        [row("a", 1, 40.0, Percentiles(3.0, 4.0, 8.0)), row("a", 32)], [row("straight", 1)]
    )
    assert len(table.splitlines()) == 3
    assert cells(table, 2) == ["sync", "c=1", "2.00", "5.00", "2.00", "5.00", "0.40"]


def test_cpu_is_by_process_for_a_thousand_requests_or_a_million_tokens() -> None:
    stream = replace(row(cpu={"gateway": 2.0, "kafka": 1.0}), case="stream", tokens=500_000)
    table = cpu_table([row(cpu={"gateway": 1.0, "kafka": 0.5}), stream])
    assert cells(table, 2)[-3:] == ["1.00", "0.50", "1.50"]
    assert cells(table, 3)[-3:] == ["4.00", "2.00", "6.00"]


def test_errors_are_shown_by_kind() -> None:
    failed = Row("", "sync", 1, 0, 0, {"status 503": 7, "closed": 1}, 0.0, 0.0, NONE, NONE, NONE)
    assert speed_table([failed]).splitlines()[2].endswith("7 status 503, 1 closed")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.004, "0.00"),
        (9.994, "9.99"),
        (12.34, "12.3"),
        (12345.6, "12,346"),
        (math.nan, "-"),
        (-150.2, "-150"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_ratio_to_nothing_is_none() -> None:
    assert math.isnan(ratio(1.0, 0.0))


def test_a_plot_is_a_picture_with_a_line_for_each_case(tmp_path: Path) -> None:
    path = tmp_path / "figures.svg"
    plot([row("<a>", 1), row("<a>", 32, 900.0), row("b", 1, times=NONE)], path)
    lines = ElementTree.parse(path).getroot().findall(".//{http://www.w3.org/2000/svg}polyline")
    # requests/s of both, and four panels of times that only <a> has
    assert len(lines) == 2 + 4


def test_a_plot_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        check(tmp_path / "figures.gif")


def test_rates_and_times_begin_at_0_and_twice_as_much_is_twice_as_high(tmp_path: Path) -> None:
    path = tmp_path / "figures.svg"
    plot([row("a", 1, 100.0), row("a", 32, 200.0), row("a", 64, 400.0)], path)
    panel = ElementTree.parse(path).getroot().find(".//{http://www.w3.org/2000/svg}g")
    assert panel is not None
    texts = {
        one.text: float(one.get("y", "")) - 4
        for one in panel.iter("{http://www.w3.org/2000/svg}text")
    }
    heights = [
        texts["0.00"] - float(one.get("cy", ""))
        for one in panel.iter("{http://www.w3.org/2000/svg}circle")
    ]
    # to a tenth of a pixel
    assert heights == pytest.approx([heights[0], 2 * heights[0], 4 * heights[0]], rel=0.01)
