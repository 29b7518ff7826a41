"""Curves on two logarithmic axes as an SVG file, and the exponent of a power law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from anomaly_bench.html_report.charts import Chart, Line, nth_style, spanning, tick_label

COLOURS = ("#0072b2", "#d55e00", "#00855f", "#b8589a", "#8a6d00", "#2f93d1", "#4a4f57", "#6f51a3")
Panel = tuple[str, str, Sequence[float], Mapping[str, Sequence[float]]]  # title, label of x, x, curves by name
LEGEND = 110  # width


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of the power law that fits best by least squares of the logarithms; x, y > 0.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(x), np.log(np.maximum(y, 1e-9)), 1)[0])


def svg(panels: Sequence[Panel], label: str) -> str:
    """Panels beside each other with one legend.  label: of the vertical axes."""
    names = list(dict.fromkeys(name for panel in panels for name in panel[3]))
    width = Chart.width * len(panels) + LEGEND
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {Chart.height}" width="{width}">',
             f'<rect width="{width}" height="{Chart.height}" fill="#fff"/>',
             '<g font-family="sans-serif" font-size="10" fill="#1b1f24">']  # fmt: skip
    parts += [_panel(panel, names, label, k * Chart.width) for k, panel in enumerate(panels)]
    for k, name in enumerate(names):
        style, y = nth_style(k), Chart.top + 16 * k
        parts.append(f'<g transform="translate({width - LEGEND + 8} {y})">{_curve("0,0 24,0", k)}')
        parts.append(f'<path d="{style.marker}" transform="translate(12 0) scale(.7)" fill="{COLOURS[style.colour]}"/>')
        parts.append(f'<text x="30" y="3.5">{escape(name)}</text></g>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _panel(panel: Panel, names: Sequence[str], label: str, left: float) -> str:
    title, unit, x, curves = panel
    y_axis = spanning(label, [v for values in curves.values() for v in values if v >= 0.01], log=True)
    chart = Chart(title, spanning(unit, x, log=True), y_axis)
    parts = [f'<g transform="translate({left} 0)"><text x="4" y="14" font-weight="bold">{escape(title)}</text>']
    for value in chart.x.ticks():
        at = chart.at_x(value)
        parts.append(f'<path d="M{at} {chart.top}V{chart.bottom}" stroke="#dde1e6"/>')
        parts.append(f'<text x="{at}" y="{chart.bottom + 14}" text-anchor="middle">{tick_label(value)}</text>')
    for value in chart.y.ticks():
        at = chart.at_y(value)
        parts.append(f'<path d="M{chart.left} {at}H{chart.right}" stroke="#dde1e6"/>')
        parts.append(f'<text x="{chart.left - 5}" y="{float(at) + 3.5}" text-anchor="end">{tick_label(value)}</text>')
    middle = (chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2
    parts.append(f'<text x="{middle[0]}" y="{chart.height - 8}" text-anchor="middle">{escape(unit)}</text>')
    turned = f'transform="translate(10 {middle[1]}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{escape(label)}</text>")
    for name, values in curves.items():
        k = names.index(name)
        line = Line(nth_style(k), name, x, values)
        parts.append(_curve(chart.path(chart.points(line)), k))
        for px, py in chart.points(line):
            place = f"translate({chart.at_x(px)} {chart.at_y(py)}) scale(.6)"
            marker = f'<path d="{line.style.marker}" transform="{place}" fill="{COLOURS[line.style.colour]}">'
            parts.append(f"{marker}<title>{escape(name)}: {py:.3g}</title></path>")
    return "\n".join([*parts, "</g>"])


def _curve(points: str, k: int) -> str:
    style = nth_style(k)
    return (
        f'<polyline points="{points}" fill="none" stroke="{COLOURS[style.colour]}" stroke-width="1.5" '
        f'stroke-dasharray="{style.dash}"/>'
    )
