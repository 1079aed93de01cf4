"""Charts as inline SVG: no script, no file, and colours from the page, so that they read on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.ticker import MaxNLocator

_WIDTH, _HEIGHT = 330, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 34
_ROW, _NAMES, _LETTER = 24, 120, 7
COLORS = 8
"""Series colours of the page; a ninth series has the first one's again."""

CSS = """
svg.chart { display: block; width: 100%; height: auto; font-size: 11px; }
svg.chart text { fill: var(--muted); }
svg.chart text.name { fill: var(--text); }
svg.chart .grid { stroke: var(--line); stroke-width: 1; }
svg.chart polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg.chart .join { stroke: var(--muted); stroke-width: 1.5; opacity: .5; }
svg.chart .zero { stroke: var(--text); stroke-width: 1; stroke-dasharray: 3 3; }
svg.chart .faint { opacity: .45; }
svg.chart .bar { stroke: var(--text); stroke-width: 2; }
""" + "".join(
    f"svg.chart polyline.s{i} {{ stroke: var(--series-{i}); }} svg.chart circle.s{i} {{ fill: var(--series-{i}); }}\n"
    f".key.s{i}::before {{ background: var(--series-{i}); }}\n"
    for i in range(COLORS)
)
"""Style of the charts; the page defines --text, --muted, --line and --series-0 to --series-7."""


@dataclass(frozen=True)
class Series:
    """A line: (x, y) points in order; points that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    """Which of the page's series colours."""


def line_chart(series: Sequence[Series], *, label: str, x_label: str = "epoch") -> str:
    """Lines over a common x; `label` says for screen readers what is drawn. One sentence where there is no point."""
    points = [point for line in series for point in line.points if math.isfinite(point[1])]
    if not points:
        return "<p class='empty'>no value was logged</p>"
    x_ticks = _ticks([x for x, _ in points], whole=True)
    y_ticks = _ticks([y for _, y in points])
    x_scale = _Scale(min(x for x, _ in points), max(x for x, _ in points), _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{_number(tick)}</text>")
    for tick in x_ticks:
        if x_scale.low <= tick <= x_scale.high:
            parts.append(
                f"<text x='{x_scale(tick):.1f}' y='{_HEIGHT - _BOTTOM + 15}' text-anchor='middle'>{tick:g}</text>"
            )
    parts.append(f"<text x='{_WIDTH - _RIGHT}' y='{_HEIGHT - 4}' text-anchor='end'>{escape(x_label)}</text>")
    for line in series:
        finite = [(x, y) for x, y in line.points if math.isfinite(y)]
        if len(finite) == 1:
            x, y = finite[0]
            parts.append(f"<circle class='s{line.color % COLORS}' r='3' cx='{x_scale(x):.1f}' cy='{y_scale(y):.1f}'/>")
            continue
        path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in finite)
        parts.append(f"<polyline class='s{line.color % COLORS}' points='{path}'>{_title(line.name)}</polyline>")
    return _svg(_WIDTH, _HEIGHT, label, parts)


def paired_dots(cases: Sequence[str], values: Mapping[str, Sequence[float]], *, label: str) -> str:
    """One row a case: a dot for each method's value (0 to 1), joined by a line. Not finite values are left out."""
    finite = [value for row in values.values() for value in row if math.isfinite(value)]
    low = math.floor(min(finite, default=0) * 10) / 10
    names = max(_NAMES, 12 + _LETTER * max(map(len, cases), default=0))
    width, height = 2 * _WIDTH - _NAMES + names, _TOP + _ROW * len(cases) + _BOTTOM
    scale = _Scale(low, 1.0, names, width - 2 * _RIGHT)
    parts = []
    for tick in _ticks([low, 1.0]):
        x = scale(tick)
        if low <= tick <= 1:
            parts.append(f"<line class='grid' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP}' y2='{height - _BOTTOM}'/>")
            parts.append(f"<text x='{x:.1f}' y='{height - _BOTTOM + 15}' text-anchor='middle'>{_number(tick)}</text>")
    for row, case in enumerate(cases):
        y = _TOP + _ROW * (row + 0.5)
        parts.append(f"<text class='name' x='{names - 12}' y='{y + 4}' text-anchor='end'>{escape(case)}</text>")
        dots = [(color, name, v[row]) for color, (name, v) in enumerate(values.items()) if math.isfinite(v[row])]
        if len(dots) > 1:
            ends = [scale(value) for _, _, value in dots]
            parts.append(f"<line class='join' x1='{min(ends):.1f}' x2='{max(ends):.1f}' y1='{y}' y2='{y}'/>")
        for color, name, value in dots:
            mark = _title(f"{case}, {name}: {value:.3f}")
            parts.append(f"<circle class='s{color % COLORS}' r='5.5' cx='{scale(value):.1f}' cy='{y}'>{mark}</circle>")
    return _svg(width, height, label, parts)


@dataclass(frozen=True)
class Differences:
    """Differences of one method, case by case, with the interval of their mean."""

    name: str
    values: Sequence[tuple[str, float]]
    """(case, difference)"""
    interval: tuple[float, float, float]
    """Mean, lower and upper end; ends that are not finite are not drawn."""
    color: int = 0


def difference_dots(rows: Sequence[Differences], *, label: str) -> str:
    """One row a method: a dot for each case's difference, and the mean with its interval below them."""
    finite = [v for row in rows for _, v in row.values] + [v for row in rows for v in row.interval if math.isfinite(v)]
    ticks = _ticks([min(finite, default=0), max(finite, default=0), 0])
    height = 2 * _ROW
    width, total = 2 * _WIDTH, _TOP + height * len(rows) + _BOTTOM
    scale = _Scale(ticks[0], ticks[-1], 2 * _RIGHT, width - 2 * _RIGHT)
    parts = []
    for tick in ticks:
        x = scale(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f"<line class='{kind}' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP}' y2='{total - _BOTTOM}'/>")
        parts.append(f"<text x='{x:.1f}' y='{total - _BOTTOM + 15}' text-anchor='middle'>{_number(tick)}</text>")
    for i, row in enumerate(rows):
        top = _TOP + height * i
        parts.append(f"<text class='name' x='{2 * _RIGHT}' y='{top + 12}'>{escape(row.name)}</text>")
        for case, value in row.values:
            dot = f"class='s{row.color % COLORS} faint' r='4' cx='{scale(value):.1f}' cy='{top + 24}'"
            parts.append(f"<circle {dot}>{_title(f'{case}: {value:+.3f}')}</circle>")
        mean, low, high = row.interval
        y = top + 37
        if math.isfinite(low) and math.isfinite(high):
            mark = _title(f"{row.name}: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
            parts.append(
                f"<line class='bar' x1='{scale(low):.1f}' x2='{scale(high):.1f}' y1='{y}' y2='{y}'>{mark}</line>"
            )
        parts.append(f"<circle class='s{row.color % COLORS}' r='5' cx='{scale(mean):.1f}' cy='{y}'/>")
    return _svg(width, total, label, parts)


def legend(names: Sequence[str]) -> str:
    """The names beside their series colours."""
    return (
        "<p class='legend'>"
        + " ".join(f"<span class='key s{i % COLORS}'>{escape(n)}</span>" for i, n in enumerate(names))
        + "</p>"
    )


@dataclass(frozen=True)
class _Scale:
    """From [low, high] to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value; the middle where the range is empty."""
        share = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    return [float(tick) for tick in MaxNLocator(nbins=5, integer=whole).tick_values(min(values), max(values))]


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    box = f"viewBox='0 0 {width} {height}' role='img' aria-label='{escape(label, quote=True)}'"
    return f"<svg class='chart' {box}>{''.join(parts)}</svg>"
