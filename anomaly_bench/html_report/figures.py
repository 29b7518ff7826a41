"""The report's charts as files for print: curves, losses, accuracy over cost, Pareto, and each seed's result."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.html_report.charts import COLOURS, MARKERS, Axis, Chart, Style, spanning, tick_label
from anomaly_bench.html_report.pareto import pareto_page
from anomaly_bench.html_report.run_charts import Charts, cost_charts, curve_charts, training_charts
from anomaly_bench.html_report.run_data import Run, by_setting, runs_by_category
from anomaly_bench.results.aggregate import MAIN, METRICS, Table, metric_name
from anomaly_bench.results.collect import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg")
FOLDER = "figures"  # in the report's
WIDTH, HEIGHT = 3.4, 2.5  # inches: a column of a page with two; a legend comes below
ROW = 0.22  # inches of a setting in a figure of seeds, and of a line of the legend
UNIT = 72 * WIDTH / Chart.width  # points of one SVG unit
MARKS = ("o", "s", "^", "D", "v", "P", "_")  # as MARKERS
LEGEND = 2  # settings beside each other
SIZES: dict[str, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
}
SIZES |= {
    "ytick.labelsize": 7,
    "pdf.fonttype": 42,
    "svg.hashsalt": "anomaly_bench",
    "text.parse_math": False,
}  # fonts that publishers take
NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # so that equal figures are equal files


@dataclass(frozen=True)
class SeedRows:
    """A row for each setting, with a point for each seed's mean over categories."""

    title: str
    x: Axis
    rows: Mapping[str, tuple[Style, Sequence[float]]]  # heading -> style, values


def require_matplotlib(format: str) -> None:
    """Raise UserError where figures cannot be drawn."""
    if not find_spec("matplotlib"):
        what = "matplotlib is not installed"
        raise UserError(f"--figures {format}", what, "pip install 'anomaly_bench[figures]'")


def write_figures(rows: Sequence[Row], tables: Sequence[Table], target: Path, format: str) -> int:
    """Write every figure into target/figures, in place of those of an earlier report, and return how many there are.

    format: of FORMATS.  Raises UserError without matplotlib.
    """
    require_matplotlib(format)
    from matplotlib import rc_context

    written: set[Path] = set()
    look: Any = {**_defaults(), **SIZES}
    with rc_context(look):
        for name, chart, legend in _figures(rows, tables):
            file = _free(target / FOLDER / f"{_slug(name)}.{format}", written)
            drawn = _draw_seeds(chart) if isinstance(chart, SeedRows) else _draw_chart(chart, legend)
            write_atomic(file, partial(drawn.savefig, format=format, metadata=NO_DATE[format]))
            written.add(file)
    for file in (target / FOLDER).glob("*.*"):
        if file.suffix[1:] in FORMATS and file not in written:
            file.unlink()
    return len(written)


def _figures(
    rows: Sequence[Row], tables: Sequence[Table]
) -> Iterator[tuple[str, Chart | SeedRows, Mapping[str, Style]]]:
    """Yield the name of each figure, what it shows, and its legend."""

    def named(place: str, charts: Charts) -> Iterator[tuple[str, Chart, Mapping[str, Style]]]:
        yield from ((f"{place} {chart.title}", chart, charts.legend) for chart in charts.charts)

    datasets = runs_by_category(rows)
    for dataset, categories in datasets.items():
        runs = [run for found in categories.values() for run in found]
        own = [table for table in tables if table.dataset == dataset]
        yield from named(dataset, cost_charts(own, runs))
        for metric in MAIN:
            if seeds := _seeds(metric, categories, runs):
                yield f"{dataset} seeds {metric}", seeds, {}
        for category, found in categories.items():
            place = " ".join(dict.fromkeys((dataset, category)))
            yield from named(place, curve_charts(found))
            yield from named(place, Charts(training_charts(found).charts, "", {}))
    every = [run for categories in datasets.values() for found in categories.values() for run in found]
    for i, results in enumerate(pareto_page(every)["machines"], 1):
        yield from named(f"pareto machine {i}", results.charts)


def _seeds(metric: str, categories: Mapping[str, Any], runs: Sequence[Run]) -> SeedRows | None:
    """Return each seed's mean over all categories; None where no seed has them all."""
    rows = {}
    for heading, group in by_setting(runs).items():
        values: dict[int, dict[str, float]] = {}
        for run in group:
            if metric in run.row.metrics:
                values.setdefault(run.row.seed, {})[run.row.category] = run.row.metrics[metric]
        means = [sum(found.values()) / len(found) for found in values.values() if len(found) == len(categories)]
        if means := [mean for mean in means if mean == mean]:
            rows[heading] = (group[0].style, means)
    if not rows:
        return None
    axis = spanning(metric, [value for _, values in rows.values() for value in values])
    return SeedRows(f"{metric} of each seed", axis, rows)


def _draw_chart(chart: Chart, legend: Mapping[str, Style]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    lines = -(-len(legend) // LEGEND) if len(legend) > 1 else 0
    figure = Figure(figsize=(WIDTH, HEIGHT + ROW * lines), layout="constrained")
    axes = figure.add_subplot()
    _set_axis(axes, "x", chart.x)
    _set_axis(axes, "y", chart.y)
    axes.grid(color="0.9", linewidth=0.5)
    if chart.diagonal:
        axes.plot([0, 1], [0, 1], ":", color="0.5", linewidth=0.8)
    for line in chart.lines:
        points = chart.points(line)
        axes.plot(*zip(*points, strict=True), **_look(line.style), marker=_mark(line.style) if len(points) == 1 else "")
    for dot in chart.dots:
        look = {**_look(dot.style), "linestyle": "", "marker": _mark(dot.style)}
        bar = None if math.isnan(dot.low) else [[dot.y - dot.low], [dot.high - dot.y]]
        axes.errorbar(dot.x, dot.y, bar, markersize=4, elinewidth=0.8, **look)
    if chart.front:
        xs, ys = zip(*chart.front, strict=True)
        axes.step([*xs, chart.x.high], [*ys, ys[-1]], where="post", color="0.2", linewidth=0.8, zorder=1)
        axes.plot(xs, ys, "o", markersize=8, fillstyle="none", color="0.2", markeredgewidth=0.8)
    if lines:
        handles = [
            Line2D([], [], label=name, marker=_mark(style) if chart.dots else "", markersize=4, **_look(style))
            for name, style in legend.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=LEGEND, frameon=False)
    return figure


def _draw_seeds(chart: SeedRows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.7 + ROW * len(chart.rows)), layout="constrained")
    axes = figure.add_subplot()
    _set_axis(axes, "x", chart.x)
    axes.grid(axis="x", color="0.9", linewidth=0.5)
    for row, (style, values) in enumerate(chart.rows.values()):
        colour = _colours()[style.colour]
        axes.plot(values, [row] * len(values), _mark(style), color=colour, markersize=4, alpha=0.7, markeredgewidth=0.8)
        axes.plot(sum(values) / len(values), row, "|", color="0.1", markersize=9)
    axes.set_yticks(range(len(chart.rows)), list(chart.rows))
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    return figure


def _set_axis(axes: Axes, name: str, axis: Axis) -> None:
    """Give an axis of a figure the label, range and ticks of the page's."""
    label = metric_name(axis.label) if axis.label in METRICS else axis.label
    scale = {
        f"{name}label": label,
        f"{name}scale": "log" if axis.log else "linear",
        f"{name}lim": (axis.low, axis.high),
    }
    axes.set(**scale)
    getattr(axes, f"set_{name}ticks")(axis.ticks(), list(map(tick_label, axis.ticks())))
    getattr(axes, f"{name}axis").set_minor_locator(_no_locator())


def _no_locator() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _look(style: Style) -> dict[str, Any]:
    """Return colour, width and dashes of a setting's lines."""
    dashes = tuple(UNIT * float(length) for length in style.dash.split())
    return {"color": _colours()[style.colour], "linewidth": 1.0, "linestyle": (0, dashes) if dashes else "-"}


def _mark(style: Style) -> str:
    return MARKS[MARKERS.index(style.marker)]


@cache
def _colours() -> list[str]:
    """Return the colours of the page's light theme, which stand first in its style sheet."""
    sheet = (files("anomaly_bench.html_report") / "static" / "report.css").read_text("utf-8")
    found = dict(reversed(re.findall(r"--c(\d): (#[0-9a-f]{6})", sheet)))
    return [found[str(number)] for number in range(COLOURS)]


def _defaults() -> dict[str, Any]:
    """Return matplotlib's own settings, whatever the user's are."""
    from matplotlib import rcParamsDefault

    return {key: value for key, value in rcParamsDefault.items() if key.split(".")[0] not in ("backend", "toolbar")}


def _slug(name: str) -> str:
    """Return a name as that of a file: `mvtec-screw-roc-of-images`."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")[:120]


def _free(file: Path, written: set[Path]) -> Path:
    """Return the file, or one with a number where that name is taken."""
    names = (file, *(file.with_stem(f"{file.stem}-{i}") for i in range(2, len(written) + 2)))
    return next(name for name in names if name not in written)
