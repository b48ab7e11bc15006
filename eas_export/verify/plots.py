"""Line plots with a logarithmic axis, as inline SVG. Markers and text tell series apart as well as colours do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 540, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 12, 14, 46  # margins
STYLES = 6  # colours .s0 to .s5 of the style sheet
MOST_TICKS = 10


@dataclass(frozen=True)
class Point:
    """x: index into the axis's names; y: None where there is no number; allowed: the same unit as y"""

    x: int
    y: float | None
    allowed: float | None
    ok: bool
    tooltip: str
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """style: a number that decides colour and marker"""

    name: str
    style: int
    points: tuple[Point, ...]


def log_plot(title: str, x_label: str, y_label: str, names: Sequence[str], series: Sequence[Series]) -> str:
    """One line per series, and a dashed one for its tolerance. Zeros lie on the axis, missing numbers on the upper edge."""
    axes = _Axes(names, [point for each in series for point in each.points])
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        axes.draw(x_label, y_label),
    ]
    parts += [_allowed(axes, each) for each in series]
    parts += [_drawn(axes, each) for each in series]
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series], solid: str = "", hollow: str = "") -> str:
    """What lines and markers mean; solid, hollow: what the two fills mean, if anything."""
    items = [(f"s{each.style % STYLES}", _line(9), each.style, False, each.name) for each in series]
    items += [("ink", "", 0, is_hollow, word) for word, is_hollow in ((solid, False), (hollow, True)) if word]
    drawn = [
        (f'<g class="{css}">{line}{marker(style, 20, 9, is_hollow)}</g>', word)
        for css, line, style, is_hollow, word in items
    ]
    drawn.append(('<g class="ink"><path class="allowed" d="M2 9H38"/></g>', "allowed"))
    if any(not point.ok for each in series for point in each.points):
        drawn.append((f'<g class="ink">{marker(0, 20, 9, False)}{_ring(20, 9)}</g>', "more than allowed"))
    items = "".join(
        f'<li><svg width="40" height="18" viewBox="0 0 40 18" aria-hidden="true">{svg}</svg> {escape(word)}</li>'
        for svg, word in drawn
    )
    return f'<ul class="legend">{items}</ul>'


def marker(style: int, x: float, y: float, hollow: bool) -> str:
    """circle, square, diamond, triangle"""
    fill = ' class="hollow"' if hollow else ' class="solid"'
    if style % 4 == 0:
        return f'<circle{fill} cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    corners = [
        [(-3.3, -3.3), (3.3, -3.3), (3.3, 3.3), (-3.3, 3.3)],
        [(0, -4.6), (4.6, 0), (0, 4.6), (-4.6, 0)],
        [(0, -4.4), (4.2, 3.4), (-4.2, 3.4)],
    ][style % 4 - 1]
    return f'<polygon{fill} points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}"/>'


class _Axes:
    """Coordinates: x by index, y on a logarithmic scale."""

    def __init__(self, names: Sequence[str], points: Sequence[Point]):
        values = [v for p in points for v in (p.y, p.allowed) if v]
        self.names = names
        self.low = math.floor(math.log10(min(values, default=1e-6)) - 0.05)
        self.high = max(math.ceil(math.log10(max(values, default=1.0)) + 0.05), self.low + 1)
        self.zero = any(p.y == 0 for p in points)
        self.no_number = any(p.y is None for p in points)
        self.bottom = HEIGHT - BOTTOM - (26 if self.zero else 0)
        self.top = TOP + (26 if self.no_number else 0)

    def x(self, index: int) -> float:
        room = WIDTH - LEFT - RIGHT
        return LEFT + room * (index + 0.5) / max(1, len(self.names))

    def y(self, value: float | None) -> float:
        if value is None:
            return TOP + 6
        if value == 0:
            return HEIGHT - BOTTOM - 4
        return self.bottom - (self.bottom - self.top) * (math.log10(value) - self.low) / (self.high - self.low)

    def draw(self, x_label: str, y_label: str) -> str:
        each = math.ceil((self.high - self.low) / 8)
        ticks = [(self.y(10.0**d), f"1e{d}") for d in range(self.low, self.high + 1, each)]
        ticks += [(self.y(0), "0")] if self.zero else []
        ticks += [(self.y(None), "n/a")] if self.no_number else []
        end, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [
            f'<path class="grid" d="M{LEFT} {y:.1f}H{end}"/><text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{name}</text>'
            for y, name in ticks
        ]
        step = math.ceil(len(self.names) / MOST_TICKS)
        parts += [
            f'<path class="tick" d="M{self.x(i):.1f} {floor}v4"/><text class="x" x="{self.x(i):.1f}" y="{floor + 18}">{escape(name)}</text>'
            for i, name in enumerate(self.names)
            if i % step == 0
        ]
        middle = (TOP + floor) / 2
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{end}"/>')
        parts.append(f'<text class="x" x="{(LEFT + end) / 2}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
        parts.append(f'<text class="x" transform="translate(14 {middle}) rotate(-90)">{escape(y_label)}</text>')
        return "".join(parts)


def _drawn(axes: _Axes, series: Series) -> str:
    spots = [(axes.x(p.x), axes.y(p.y), p) for p in series.points]
    path, pen = "", "M"
    for x, y, point in spots:  # a missing number breaks the line
        path += f"{pen}{x:.1f} {y:.1f}" if point.y is not None else ""
        pen = "L" if point.y is not None else "M"
    marks = []
    for x, y, point in spots:
        ring = "" if point.ok else _ring(x, y)
        marks.append(f"<g>{marker(series.style, x, y, point.hollow)}{ring}<title>{escape(point.tooltip)}</title></g>")
    return f'<g class="s{series.style % STYLES}"><path class="line" d="{path}"/>{"".join(marks)}</g>' if spots else ""


def _allowed(axes: _Axes, series: Series) -> str:
    spots = [f"{axes.x(p.x):.1f} {axes.y(p.allowed):.1f}" for p in series.points if p.allowed]
    tooltip = f"allowed on {series.name}"
    if not spots:
        return ""
    return f'<g class="s{series.style % STYLES}"><path class="allowed" d="M{"L".join(spots)}"><title>{escape(tooltip)}</title></path></g>'


def _ring(x: float, y: float) -> str:
    return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="6.8"/>'


def _line(y: int) -> str:
    return f'<path class="line" d="M2 {y}H38"/>'
