"""Draw charts as SVG text, without a plotting library, which would be Billet's heaviest dependency."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 34
COLOURS = (  # at least one for each rule and policy
    "#0b7a75", "#d1495b", "#edae49", "#30638e", "#7a5195", "#6b8e23", "#8d6e63", "#555555", "#e377c2", "#1f77ff",
    "#c44e00", "#17becf",
)  # fmt: skip
FIRST_PX, OTHER_PX = 2.6, 1.3

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """One curve. y is a share, unless the chart is drawn with percent=False."""

    name: str
    points: Points


def steps(most: float) -> list[float]:
    """Tick marks of an axis from 0 to `most`: three to six round numbers, beginning with 0."""
    unit = 10.0 ** floor(log10(most))
    step = next(unit * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if most / (unit * part) < 5.001)
    return [n * step for n in range(floor(most / step * 1.0001) + 1)]


class ChartArea:
    """The axes of a chart. `across`: label of the x axis."""

    def __init__(
        self, title: str, x_most: float, y_most: float, percent: bool = True, across: str = "events"
    ) -> None:
        self._x_most = x_most or 1.0
        self._y_most = y_most or 1.0
        self._percent = percent
        self._across = across
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
        ]
        self._axes()

    def at(self, x: float, y: float) -> str:
        """The pixel coordinates of a point, as SVG writes them."""
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / self._x_most
        up = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(y, self._y_most) / self._y_most
        return f"{across:.1f},{up:.1f}"

    def draw(self, part: str) -> None:
        """Add an SVG element."""
        self._parts.append(part)

    def svg(self) -> str:
        """The whole picture."""
        return "\n".join([*self._parts, "</svg>"])

    def _axes(self) -> None:
        for value in steps(self._y_most):
            y = self.at(0, value).split(",")[1]
            label = f"{100 * value:.3g}%" if self._percent else f"{value:,.4g}"
            self.draw(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
            self.draw(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy="4">{label}</text>')
        for value in steps(self._x_most):
            x = self.at(value, 0).split(",")[0]
            self.draw(f'<text x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:,.4g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.draw(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(self._across)}</text>')


def curves(
    title: str, lines: Sequence[Line], y_most: float | None = None, percent: bool = True, across: str = "events"
) -> str:
    """Draw curves; the first is thick. `across`: label of the x axis."""
    ends = [point for line in lines for point in line.points]
    highest = max((y for _, y in ends), default=1.0)
    furthest = max((x for x, _ in ends), default=1.0)
    frame = ChartArea(title, furthest, highest if y_most is None else y_most, percent, across)
    for n, line in reversed(list(enumerate(lines))):
        path = " ".join(frame.at(x, y) for x, y in line.points)
        width = OTHER_PX if n else FIRST_PX
        frame.draw(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[n % len(COLOURS)]}" stroke-width="{width}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    return frame.svg()


def bands(title: str, x: Sequence[float], shares: Sequence[Sequence[float]], colour: str) -> str:
    """Draw the load of all hosts: bands from minimum to maximum and from p10 to p90, and the median.

    `shares`: one row for each x, sorted from low to high.
    """
    frame = ChartArea(title, max(x, default=1.0), 1.0)
    for low, high, opacity in ((0.0, 1.0, 0.2), (0.1, 0.9, 0.45)):
        top = [frame.at(at, _quantile(row, high)) for at, row in zip(x, shares, strict=True)]
        bottom = [frame.at(at, _quantile(row, low)) for at, row in zip(x, shares, strict=True)]
        outline = " ".join([*top, *reversed(bottom)])
        frame.draw(f'<polygon points="{outline}" fill="{colour}" fill-opacity="{opacity}"/>')
    median = " ".join(frame.at(at, _quantile(row, 0.5)) for at, row in zip(x, shares, strict=True))
    frame.draw(f'<polyline points="{median}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return frame.svg()


def _quantile(row: Sequence[float], q: float) -> float:
    return row[round(q * (len(row) - 1))]
