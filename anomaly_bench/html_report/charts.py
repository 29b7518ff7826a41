"""What templates/charts.html draws as inline SVG, and where in a chart it lies.

A setting has the same style on all pages: a colour that colour-blind readers can tell from the others, a dash and a
marker.  Colours are variables of the style sheet, so that they follow the light and the dark theme.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

COLOURS = 8  # --c0 ... --c7 in report.css
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 3", "4 2 1 2", "1 3")
MARKERS = ("M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z", "M-4-4H4V4H-4Z", "M0-5.5L5 4H-5Z", "M0-6L6 0L0 6L-6 0Z",
           "M0 5.5L5-4H-5Z", "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z", "M-5-2H5V2H-5Z")  # fmt: skip


class Style(NamedTuple):
    """How lines and points of a setting look."""

    colour: int
    dash: str
    marker: str


def nth_style(number: int) -> Style:
    """Return the style of the setting with this number."""
    return Style(number % COLOURS, DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)])


@dataclass(frozen=True)
class Axis:
    """The label and the range of an axis."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, values: ArrayLike) -> np.ndarray:
        """Return 0 at the low end and 1 at the high one; what is outside is drawn at the end."""
        inside = np.clip(values, self.low, self.high)
        if self.log:
            return np.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)

    def places(self, values: Sequence[float], start: int, end: int) -> list[str]:
        """Return the coordinates of values on an axis that is drawn from `start` to `end`."""
        return [f"{at:.1f}" for at in (start + self.share(values) * (end - start)).tolist()]

    def ticks(self) -> list[float]:
        """Return three to seven round values."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            steps = (1.0,) if last - first > 1 else (1.0, 2.0, 5.0)
            values = [m * 10.0**k for k in range(first - 1, last + 1) for m in steps]
            values = [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]
            return values[:: -(-len(values) // 7) or 1]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        return [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def spanning(label: str, values: Iterable[float], log: bool = False) -> Axis:
    """Return an axis around all finite values, with a little room."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        room = max(1.25, math.sqrt(10 * low / high))  # a decade at least, so that there are ticks
        return Axis(label, low / room, high * room, log=True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(label, low - room, high + room)


@dataclass(frozen=True)
class Line:
    """A curve; several of a setting share its style."""

    style: Style
    title: str  # shown where the pointer rests
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Dot:
    """A point with an upright bar from `low` to `high`; without one where these are nan."""

    style: Style
    title: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Chart:
    """Curves and points in a frame.  Lengths are in SVG units; the chart grows with the page."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    diagonal: bool = False  # the line of pure chance
    front: Sequence[tuple[float, float]] = ()  # Pareto-optimal points, the lowest x first
    width, height = 370, 270
    right, top, bottom = 348, 26, 230  # of the plotted area

    @property
    def left(self) -> int:
        """The left end of the plotted area, with room for the longest tick label and the axis label."""
        return 26 + 7 * max(len(tick_label(value)) for value in self.y.ticks() or [0.0])

    @property
    def axes(self) -> str:
        """What report.js needs to read a value under the pointer, as JSON.

        Of x and y: the low end, the high end, where they lie, whether the axis is logarithmic, and its label.
        """
        x, y = self.x, self.y
        ends = (x, self.left, self.right), (y, self.bottom, self.top)
        return json.dumps([[axis.low, axis.high, start, end, axis.log, axis.label] for axis, start, end in ends])

    def at_x(self, value: float) -> str:
        """Return where a value lies on the horizontal axis."""
        return self.x.places([value], self.left, self.right)[0]

    def at_y(self, value: float) -> str:
        """Return where a value lies on the vertical axis."""
        return self.y.places([value], self.bottom, self.top)[0]

    def points(self, line: Line) -> list[tuple[float, float]]:
        """Return the points of a line that have a place: finite, and positive on a logarithmic axis."""
        pairs = zip(line.x, line.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(y) and (y > 0 or not self.y.log)]

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Return points as the text of a polyline."""
        xs = self.x.places([x for x, _ in points], self.left, self.right)
        ys = self.y.places([y for _, y in points], self.bottom, self.top)
        return " ".join(map(",".join, zip(xs, ys, strict=True)))

    def steps(self) -> str:
        """Return the front as the text of a path: the highest y that there is up to each x."""
        places = [(self.at_x(x), self.at_y(y)) for x, y in self.front]
        return f"M{places[0][0]} {self.bottom}{''.join(f'H{x}V{y}' for x, y in places)}H{self.right}"


@dataclass(frozen=True)
class Histograms:
    """Histograms above each other."""

    title: str
    x: Axis
    rows: Sequence[tuple[str, str, bool, Sequence[float]]]  # kind of image, remark, is it normal, share in each bin
    threshold: float | None = None  # drawn as an upright line
    width, left, right, top = 420, 106, 320, 26
    step = 26  # height of a row

    @property
    def bottom(self) -> int:
        """The lower end of the last histogram."""
        return self.top + self.step * len(self.rows)

    @property
    def height(self) -> int:
        """The height of the whole chart."""
        return self.bottom + 40

    @property
    def axes(self) -> str:
        """As of a Chart, of x alone."""
        return json.dumps([[self.x.low, self.x.high, self.left, self.right, self.x.log, "score"]])

    def outline(self, shares: Sequence[float], base: int) -> str:
        """Return the path around a histogram that stands at the height `base`."""
        most = max((max(row[-1], default=0) for row in self.rows), default=0) or 1
        width = (self.right - self.left) / max(len(shares), 1)
        heights = [(self.step - 4) * share / most for share in shares]
        tops = [f"H{self.left + i * width:.1f}V{base - height:.1f}" for i, height in enumerate(heights)]
        return f"M{self.left} {base}{''.join(tops)}H{self.right}V{base}Z"


def tick_label(value: float) -> str:
    """Return a short text for a tick."""
    text = f"{value:.6g}" if 1e-3 <= abs(value) < 1e5 or not value else f"{value:.0e}"
    return text.replace("e-0", "e-").replace("e+0", "e")
