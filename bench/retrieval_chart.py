"""A line chart as SVG: logarithmic axes, a legend, nothing to install."""

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 56
COLOURS = ("#1f5fbf", "#c2571a", "#2f8a4c", "#7a4fa3")


class Chart:
    def __init__(self, title: str, x_title: str, y_title: str) -> None:
        self._titles = (title, x_title, y_title)
        self._lines: list[tuple[str, list[Point]]] = []

    def line(self, label: str, points: Sequence[Point]) -> None:
        """Points above 0 on both axes."""
        self._lines.append((label, list(points)))

    def to_svg(self) -> str:
        points = [point for _, line in self._lines for point in line]
        across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
        up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *self._captions(),
            *(_tick(across.at(x), HEIGHT - BOTTOM, x, along_x=True) for x in across.ticks),
            *(_tick(LEFT, up.at(y), y, along_x=False) for y in up.ticks),
        ]
        for number, (label, line) in enumerate(self._lines):
            colour = COLOURS[number % len(COLOURS)]
            path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
            for x, y in line:
                place = f'cx="{across.at(x):.1f}" cy="{up.at(y):.1f}"'
                parts.append(f'<circle {place} r="3" fill="{colour}"/>')
                parts.append(_text(across.at(x), up.at(y) - 8, f"{y:.3g}", fill=colour))
            below = TOP + 14 * (number + 1)
            parts.append(_text(LEFT + 12, below, label, anchor="start", fill=colour))
        return "\n".join([*parts, "</svg>\n"])

    def _captions(self) -> list[str]:
        title, x_title, y_title = self._titles
        middle = (LEFT + WIDTH - RIGHT) / 2
        return [
            _text(middle, 22, title),
            _text(middle, HEIGHT - 14, x_title),
            f'<g transform="translate(16 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, y_title)}</g>',
        ]


class _Axis:
    """Values to pixels, by their logarithm, from a power of ten to one."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self._low, self._span = low, max(1, high - low)
        self._start, self._end = start, end
        self.ticks = [10.0**power for power in range(low, low + self._span + 1)]

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / self._span
        return self._start + share * (self._end - self._start)


def _tick(x: float, y: float, value: float, *, along_x: bool) -> str:
    if along_x:
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y}" stroke="#ddd"/>'
        return line + _text(x, y + 16, f"{value:,.6g}")
    line = f'<line x1="{x}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
    return line + _text(x - 6, y + 4, f"{value:,.6g}", anchor="end")


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
