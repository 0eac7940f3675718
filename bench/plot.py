"""Rows as a picture: a panel for each quantity, concurrency along the bottom, a line for each case.

SVG is drawn here; PNG by matplotlib, where it is installed. Rates and times begin at 0; concurrency
is on a logarithmic scale.
"""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

from bench.figures import Row
from bench.report import number

Line = tuple[str, list[tuple[float, float]]]  # its name, its points

_PANELS: Sequence[tuple[str, Callable[[Row], float]]] = (
    ("requests/s", lambda row: row.requests_per_s),
    ("streamed tokens/s", lambda row: row.tokens_per_s),
    ("first byte or token, p50 ms", lambda row: row.first_ms.p50),
    ("first byte or token, p99 ms", lambda row: row.first_ms.p99),
    ("whole, p50 ms", lambda row: row.whole_ms.p50),
    ("whole, p99 ms", lambda row: row.whole_ms.p99),
)
_COLOURS = ("#1f6fb4", "#d9632a", "#3a9150", "#8b5bb5", "#b03a48", "#6b6b6b", "#b08c1a", "#2a9d9d")
_WIDTH, _HEIGHT, _MARGIN = 380, 240, 50  # of a panel, in pixels
_COLUMNS = 2


def check(path: Path) -> None:
    """For before a measurement. Raises ValueError unless the path ends in .svg or .png, and for PNG
    without matplotlib.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path}: a plot is .svg or .png")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise ValueError(
            f"{path}: PNG needs matplotlib (pip install matplotlib); SVG needs nothing"
        )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Writes `path`, which has been checked."""
    if path.suffix == ".svg":
        path.write_text(svg(rows))
    else:
        _png(rows, path)


def panels(rows: Sequence[Row]) -> list[tuple[str, list[Line]]]:
    """Title and lines of each panel; those with nothing in them left out."""
    found = [(title, [line for line in _lines(rows, of) if line[1]]) for title, of in _PANELS]
    return [(title, lines) for title, lines in found if lines]


def _lines(rows: Sequence[Row], of: Callable[[Row], float]) -> list[Line]:
    names = list(dict.fromkeys(f"{row.part} {row.case}".strip() for row in rows))
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row in rows:
        if of(row) > 0:  # nothing was measured where a rate is 0 or a time none (NaN)
            points[f"{row.part} {row.case}".strip()].append((row.concurrency, of(row)))
    return [(name, sorted(points[name])) for name in names]


def svg(rows: Sequence[Row]) -> str:
    """As a document."""
    names = list(dict.fromkeys(f"{row.part} {row.case}".strip() for row in rows))
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    drawn = panels(rows)
    bottom = math.ceil(len(drawn) / _COLUMNS) * _HEIGHT
    height = bottom + 20 * len(names) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_COLUMNS * _WIDTH}" height="{height}"'
    ]
    parts += [
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, (title, lines) in enumerate(drawn):
        x, y = place % _COLUMNS * _WIDTH, place // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_panel(title, lines, colours), "</g>"]
    for place, name in enumerate(names):
        y = bottom + 20 * place + 8
        parts.append(f'<rect x="{_MARGIN}" y="{y}" width="14" height="4" fill="{colours[name]}"/>')
        parts.append(f'<text x="{_MARGIN + 22}" y="{y + 6}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, lines: list[Line], colours: dict[str, str]) -> list[str]:
    xs = sorted({x for _, points in lines for x, _ in points})
    highest = max(y for _, points in lines for _, y in points)
    across = _scale(xs[0], xs[-1], _MARGIN, _WIDTH - 20)
    bottom, top = _HEIGHT - _MARGIN, 35

    def up(y: float) -> float:
        return bottom + (top - bottom) * y / highest

    parts = [f'<text x="{_MARGIN}" y="20" font-weight="bold">{escape(title)}</text>']
    parts += [
        f'<text x="{across(x):.1f}" y="{_HEIGHT - 25}" text-anchor="middle">c={x:g}</text>'
        for x in xs
    ]
    for y in (0.0, highest / 2, highest):
        parts.append(
            f'<text x="{_MARGIN - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{number(y)}</text>'
        )
        parts.append(f'<path d="M{_MARGIN} {up(y):.1f}H{_WIDTH - 20}" stroke="#ddd"/>')
    for name, points in lines:
        places = [(across(x), up(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in places
        ]
    return parts


def _scale(lowest: float, highest: float, begin: float, end: float) -> Callable[[float], float]:
    """From a quantity to a place, logarithmically; the middle where there is only one value."""
    if lowest == highest:
        return lambda _: (begin + end) / 2
    factor = (end - begin) / math.log(highest / lowest)
    return lambda value: begin + factor * math.log(value / lowest)


def _png(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = panels(rows)
    figure = Figure(figsize=(10, 3.2 * math.ceil(len(drawn) / _COLUMNS)), layout="constrained")
    for place, (title, lines) in enumerate(drawn):
        axes = figure.add_subplot(
            math.ceil(len(drawn) / _COLUMNS), _COLUMNS, place + 1, xscale="log", title=title
        )
        for name, points in lines:
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
        axes.set_ylim(bottom=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center")
    figure.savefig(path)
