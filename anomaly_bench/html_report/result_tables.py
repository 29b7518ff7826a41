"""Tables and plots of results: means over seeds, published figures beside them, costs, and who is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from anomaly_bench.html_report.category import names
from anomaly_bench.html_report.charts import COLOURS, Dot, scatter, spanning
from anomaly_bench.html_report.evidence import Run, by_setting, mean_cost
from anomaly_bench.html_report.markup import Markup, el, setting, table
from anomaly_bench.results.aggregate import MAIN, Cell, Column, Table, as_published, four
from anomaly_bench.results.text import ABSENT

COSTS = {
    "train_s": ("training,\u00a0s", "seconds of training"),
    "ms_per_image": ("ms/image", "milliseconds to score an image"),
    "memory_mb": ("memory,\u00a0MB", "peak memory of the hungriest stage, in MB"),
    "parameters": ("parameters", "of all networks together"),
}
BEST = "distinguishably better than each of the other settings"


def cell(value: Cell | None, best: bool = False) -> Markup:
    """A figure, small what scatters, and a word where one is needed; sorted by the figure."""
    if value is None:
        return el("td", ABSENT, data_v="")
    text = four(value.value) if value.ours else as_published(value.value)
    small = []
    if not math.isnan(value.std):
        small.append(el("small", f"±{value.std:.4f}", title=f"standard deviation over {value.runs} seeds"))
    if value.interval and not math.isnan(value.interval[0]):
        ends = "{:.3f}–{:.3f}".format(*value.interval)
        small.append(el("small", ends, title="interval over the test images of a single run"))
    if value.note:
        small.append(el("small", value.note, class_="note"))
    kind = "best" if best else None if value.ours else "quoted"
    number = "" if math.isnan(value.value) else repr(value.value)
    return el("td", el("b", text, title=BEST) if best else text, small, data_v=number, class_=kind)


def categories_table(found: Table, best: frozenset[str], links: Mapping[str, str]) -> Markup:
    """Categories x settings for one metric.  best: headings to mark in the line of means."""
    heads: list[object] = ["category", *(_head(column.head, column.ours) for column in found.columns)]
    many = len(found.lines) > 1
    lines = []
    for i, name in enumerate(found.lines):
        mean = i == len(found.lines) - 1
        marked = [column.ours and mean and column.head in best for column in found.columns]
        start = el("a", name, href=links[name]) if name in links else name
        lines.append([start, *(cell(c.cells[i], mark) for c, mark in zip(found.columns, marked, strict=True))])
    return table(heads, lines, foot=int(many), caption=f"{found.metric} by category")


def settings_table(tables: Sequence[Table], runs: Sequence[Run], best: Mapping[str, frozenset[str]]) -> Markup:
    """Settings x metrics, the last line of each table; published figures on lines of their own; costs."""
    lines: dict[tuple[str, str], dict[str, Markup]] = {}
    for found in tables:
        head = ""
        for column in found.columns:
            head = column.head if column.ours else head
            key = (head, "" if column.ours else column.head)
            marked = column.ours and column.head in best.get(found.metric, frozenset())
            lines.setdefault(key, {})[found.metric] = cell(column.cells[-1], marked)
    metrics, of = [found.metric for found in tables], by_setting(runs)
    order = sorted(lines, key=lambda key: ([*of].index(key[0]), key[1]))
    rows = []
    for head, quoted in order:
        start = el("th", quoted, scope="row", class_="quoted")
        if not quoted:
            start = el("th", _swatch(of[head][0]), setting(head), scope="row")
        cells = [lines[head, quoted].get(metric, el("td", ABSENT, data_v="")) for metric in metrics]
        costs = [_cost(of[head], name) if not quoted else el("td", "", data_v="") for name in COSTS]
        rows.append([start, *cells, *costs])
    costs_heads = [el("span", title, title=hint) for title, hint in COSTS.values()]
    return table(["setting", *metrics, *costs_heads], rows)


def cost_charts(tables: Sequence[Table], runs: Sequence[Run]) -> Markup | None:
    """Accuracy against costs, the mean over categories of each; a point for each setting."""
    of, charts = by_setting(runs), []
    found = next((t for metric in MAIN for t in tables if t.metric == metric), None)
    for name in ("train_s", "ms_per_image") if found else ():
        title, hint = COSTS[name]
        dots = [dot for column in found.columns if (dot := _dot(column, of, name))] if found else []
        if dots and found:
            x = spanning(hint, [d.x for d in dots], log=True)
            y = spanning(found.metric, [v for d in dots for v in (d.y - d.error, d.y + d.error)])
            charts.append(el("figure", scatter(f"{found.metric} and {title}", dots, x, y)))
    if not charts:
        return None
    devices = sorted({str(run.manifest.get("device")) for run in runs})
    words = f"Bars: standard deviation over seeds. Measured on {' and '.join(devices)}"
    note = f"{words}: times of different devices cannot be compared." if len(devices) > 1 else f"{words}."
    return el("div", names(runs), el("div", charts, class_="charts"), el("p", note, class_="note"))


def _dot(column: Column, of: Mapping[str, Sequence[Run]], name: str) -> Dot | None:
    """A setting's place in a plot; none where something was not measured."""
    last, cost = column.cells[-1], mean_cost(of[column.head], name) if column.ours else math.nan
    if not last or math.isnan(last.value) or not cost > 0:
        return None
    words = f"{column.head}: {four(last.value)}, {_short(cost)} {COSTS[name][1]}"
    return Dot(of[column.head][0].style, words, cost, last.value, 0 if math.isnan(last.std) else last.std)


def _head(head: str, ours: bool) -> Markup:
    button = el("button", setting(head) if ours else head, type="button")
    return el("th", button, scope="col", class_=None if ours else "quoted")


def _swatch(run: Run) -> Markup:
    return el("i", class_=f"swatch c{run.style % COLOURS}", aria_hidden="true")


def _cost(runs: Sequence[Run], name: str) -> Markup:
    value = mean_cost(runs, name)
    if math.isnan(value):
        return el("td", ABSENT, data_v="")
    text = f"{value / 1e6:.2f} M" if name == "parameters" else _short(value)
    return el("td", text, data_v=repr(value))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
