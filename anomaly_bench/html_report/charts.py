"""Charts as inline SVG.  A setting has one style on all pages: a colour that colour-blind people can tell, a dash and
a marker; colours are variables of the style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anomaly_bench.html_report.markup import Markup, el

COLOURS = 8  # --c0 ... --c7 in report.css
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 3", "4 2 1 2", "1 3")
MARKERS = ("M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z", "M-4-4H4V4H-4Z", "M0-5.5L5 4H-5Z", "M0-6L6 0L0 6L-6 0Z",
           "M0 5.5L5-4H-5Z", "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z", "M-5-2H5V2H-5Z")  # fmt: skip
WIDTH, HEIGHT = 360, 270  # of a chart, in units of its own; it grows with the page
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 40  # around the plotted area


@dataclass(frozen=True)
class Axis:
    """What is plotted along one side."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what is outside is drawn at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values, three to seven of them."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            steps = (1.0,) if last - first > 1 else (1.0, 2.0, 5.0)
            values = [m * 10.0**k for k in range(first - 1, last + 1) for m in steps]
            values = [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]
            return values[:: -(-len(values) // 7) or 1]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """A curve; several of a setting share its style."""

    style: int
    title: str  # shown where the pointer rests
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Dot:
    """A point with an upright bar of `error` to either side."""

    style: int
    title: str
    x: float
    y: float
    error: float = 0.0


def spanning(label: str, values: Iterable[float], log: bool = False) -> Axis:
    """An axis around all finite values, with a little room."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        room = max(1.25, math.sqrt(10 * low / high))  # a decade at least, so that there are ticks
        return Axis(label, low / room, high * room, log=True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(label, low - room, high + room)


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, *, diagonal: bool = False) -> Markup:
    """Curves in one frame; diagonal: the line of pure chance."""
    ends = f"M{_x(x, x.low):.1f} {_y(y, x.low):.1f}L{_x(x, x.high):.1f} {_y(y, min(x.high, y.high)):.1f}"
    inside = [el("path", el("title", "chance"), d=ends, class_="chance")] if diagonal else []
    for line in lines:
        # a point left of a logarithmic axis, or not finite, has no place
        points = [(a, b) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b) and (b > 0 or not y.log)]
        steps = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in points)
        dash = DASHES[line.style % len(DASHES)]
        words = {"stroke_dasharray": dash or None, "class_": f"line c{line.style % COLOURS}"}
        inside.append(el("polyline", el("title", line.title), points=steps, **words))
        if len(points) == 1:
            inside.append(_marker(Dot(line.style, line.title, *points[0]), x, y))
    return _chart(title, x, y, inside)


def scatter(title: str, dots: Sequence[Dot], x: Axis, y: Axis) -> Markup:
    """Points in one frame."""
    inside = []
    for dot in dots:
        if dot.error:
            bar = f"M{_x(x, dot.x):.1f} {_y(y, dot.y - dot.error):.1f}V{_y(y, dot.y + dot.error):.1f}"
            inside.append(el("path", d=bar, class_=f"line c{dot.style % COLOURS}"))
        inside.append(_marker(dot, x, y))
    return _chart(title, x, y, inside)


def ridges(title: str, rows: Sequence[tuple[str, str, bool, Sequence[float]]], x: Axis) -> Markup:
    """Histograms above each other.  A row: name, remark, whether it is of normal images, the share in each bin."""
    step, most = 26, max((max(shares, default=0) for *_, shares in rows), default=0) or 1
    height, left, right = TOP + step * len(rows) + BOTTOM, 96, 84
    width = WIDTH + 40
    across = (width - left - right) / max(len(rows[0][3]), 1)
    parts: list[Markup] = [_title(title)]
    for i, (name, remark, normal, shares) in enumerate(rows):
        base = TOP + step * (i + 1)
        tops = [f"H{left + k * across:.1f}V{base - (step - 4) * share / most:.1f}" for k, share in enumerate(shares)]
        outline = f"M{left} {base}{''.join(tops)}H{width - right}V{base}Z"
        parts += [
            el("path", el("title", f"{name}: {remark}"), d=outline, class_="normal" if normal else "anomalous"),
            el("text", _within(name, 15), el("title", name), x=left - 6, y=base - 5, class_="end"),
            el("text", remark, x=width - right + 6, y=base - 5),
        ]  # fmt: skip
    for value in x.ticks():
        at = left + x.share(value) * (width - left - right)
        parts += [el("path", d=f"M{at:.1f} {TOP}V{height - BOTTOM}", class_="grid")]
        parts += [el("text", _number(value), x=f"{at:.1f}", y=height - BOTTOM + 14, class_="mid")]
    parts.append(el("text", x.label, x=left + (width - left - right) / 2, y=height - 8, class_="mid label"))
    return _svg(title, width, height, parts)


def legend(names: Sequence[tuple[int, str]]) -> Markup:
    """Line, marker and name of each setting."""
    items = []
    for style, name in names:
        colour, dash = f"c{style % COLOURS}", DASHES[style % len(DASHES)]
        line = el("path", d="M1 8H35", class_=f"line {colour}", stroke_dasharray=dash or None)
        mark = el("path", d=MARKERS[style % len(MARKERS)], transform="translate(18 8)", class_=f"mark {colour}")
        items.append(el("li", el("svg", line, mark, viewBox="0 0 36 16", aria_hidden="true"), name))
    return el("ul", items, class_="legend")


def _chart(title: str, x: Axis, y: Axis, inside: Sequence[Markup]) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts: list[Markup] = [_title(title)]
    for value in x.ticks():
        at = f"{_x(x, value):.1f}"
        parts += [el("path", d=f"M{at} {TOP}V{bottom}", class_="grid")]
        parts += [el("text", _number(value), x=at, y=bottom + 14, class_="mid")]
    for value in y.ticks():
        at = f"{_y(y, value):.1f}"
        parts += [el("path", d=f"M{LEFT} {at}H{right}", class_="grid")]
        parts += [el("text", _number(value), x=LEFT - 5, y=float(at) + 3.5, class_="end")]
    turned = f"translate(10 {(TOP + bottom) / 2}) rotate(-90)"
    labels = [el("text", x.label, x=(LEFT + right) / 2, y=HEIGHT - 8, class_="mid label")]
    labels += [el("text", y.label, transform=turned, class_="mid label")]
    return _svg(title, WIDTH, HEIGHT, [*parts, *labels, *inside])


def _svg(title: str, width: int, height: int, parts: Sequence[Markup]) -> Markup:
    return el("svg", parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=title, class_="chart")


def _title(title: str) -> Markup:
    return el("text", _within(title, 50), el("title", title), x=4, y=14, class_="head")


def _within(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _marker(dot: Dot, x: Axis, y: Axis) -> Markup:
    place = f"translate({_x(x, dot.x):.1f} {_y(y, dot.y):.1f})"
    path = MARKERS[dot.style % len(MARKERS)]
    return el("path", el("title", dot.title), d=path, transform=place, class_=f"mark c{dot.style % COLOURS}")


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _number(value: float) -> str:
    text = f"{value:.6g}" if 1e-3 <= abs(value) < 1e5 or not value else f"{value:.0e}"
    return text.replace("e-0", "e-").replace("e+0", "e")
