"""Which charts a page has: ROC and PRO curves, histograms of scores, training, and accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from anomaly_bench.html_report.charts import Axis, Chart, Dot, Histograms, Line, Style, spanning
from anomaly_bench.html_report.run_data import Run, by_setting, mean_cost
from anomaly_bench.html_report.tables import COSTS, metric_title, short_number
from anomaly_bench.results.aggregate import MAIN, Column, Table, four

SEEDS, SETTINGS = 5, 12  # drawn at most, so that lines can be told apart
BINS = 48
CURVES = {  # curve -> title, axis of y, end of x, metric in the hover text
    "image_roc": ("ROC of images", "anomalous images found", 1.0, "image_auroc"),
    "pixel_roc": ("ROC of pixels", "anomalous pixels found", 1.0, "pixel_auroc"),
    "pro": ("PRO: overlap of regions", "mean share of a region found", 0.3, "aupro_0.3"),
}
OVER = {  # cost -> title after the metric's, axis
    "train_s": ("over training time", "training time, s (logarithmic)"),
    "ms_per_image": ("over time per image", "time per image, ms (logarithmic)"),
}


@dataclass(frozen=True)
class Charts:
    """Charts that stand beside each other."""

    charts: list[Chart]
    note: str
    legend: Mapping[str, Style]  # heading -> style


def _legend(runs: Sequence[Run]) -> dict[str, Style]:
    return {run.heading: run.style for run in runs}


def _limited(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """Return the runs that charts show, and a sentence if these are not all."""
    drawn = [run for group in list(by_setting(runs).values())[:SETTINGS] for run in group[:SEEDS]]
    return drawn, f" Drawn: the first {SETTINGS} settings and {SEEDS} seeds of each." if len(drawn) < len(runs) else ""


def curve_charts(runs: Sequence[Run]) -> Charts:
    """Return ROC and PRO curves; the note names runs without stored curves."""
    runs, limit = _limited(runs)
    stored = [(run, run.curves()) for run in runs]
    charts = []
    for name, (title, label, end, metric) in CURVES.items():
        lines = []
        for run, curves in stored:
            if name in curves:
                value = four(run.row.metrics.get(metric, math.nan))
                lines.append(Line(run.style, f"{run.title}: {metric_title(metric)} {value}", *curves[name]))
        if lines:
            x = Axis("false-positive rate", 0, end)
            charts.append(Chart(title, x, Axis(label, 0, 1), lines, diagonal=name != "pro"))
    without = ", ".join(run.title for run, curves in stored if not curves)
    note = f"A line for each run, exact at each of its points.{limit}"
    note += f" No stored curves, which `bench eval RUN` writes: {without}." if without else ""
    return Charts(charts, note, _legend(runs))


def score_histograms(runs: Sequence[Run]) -> list[Histograms]:
    """Return the image scores of each setting's first seed, a histogram for each kind of image."""
    return [chart for group in by_setting(runs).values() if (chart := _histograms(group[0]))][:SETTINGS]


def _histograms(run: Run) -> Histograms | None:
    scores: dict[tuple[int, str], list[float]] = {}
    for row in run.scores():
        scores.setdefault((row.label, row.kind), []).append(row.score)
    if not scores:
        return None
    threshold = run.row.thresholds.get("image", {}).get("threshold")
    title = "image score" if threshold is None else f"image score; dashed: threshold {threshold:.4g}"
    axis = spanning(title, np.quantile(np.concatenate([*scores.values()]), [0.005, 0.995]).tolist())
    normal = np.sort(np.concatenate([s for (label, _), s in scores.items() if not label] or [[]]))
    rows = []
    for (label, kind), values in sorted(scores.items()):
        counts, _ = np.histogram(np.clip(values, axis.low, axis.high), BINS, (axis.low, axis.high))
        remark = f"n {len(values)}"
        if label and len(normal):
            below = np.searchsorted(normal, values) + np.searchsorted(normal, values, "right")  # ties count half
            remark = f"{below.mean() / 2 / len(normal):.3f}, {remark}"
        rows.append((kind, remark, not label, (counts / len(values)).tolist()))
    return Histograms(run.title, axis, rows, threshold)


def training_charts(runs: Sequence[Run]) -> Charts:
    """Return a chart for each stage of each setting and each value that it logged, a line for each seed."""
    runs, limit = _limited(runs)
    found: dict[tuple[str, str, str], list[Line]] = {}
    for run in runs:
        for (stage, name), (epochs, values) in run.training().items():
            title = f"{run.title}: {values[-1]:.4g} after {len(epochs)} epochs"
            key = (stage, run.heading, name.replace("_", " "))
            found.setdefault(key, []).append(Line(run.style, title, epochs, values))
    keys = sorted(found, key=lambda key: key[2] != "loss")  # stable: settings stay in their order
    note = f"Loss and other logged values, the mean of each epoch; a line for each seed.{limit}"
    charts = [_training_chart(f"{stage} · {heading}: {name}", name, found[stage, heading, name])
              for stage, heading, name in keys]  # fmt: skip
    return Charts(charts, note, _legend(runs))


def _training_chart(title: str, label: str, lines: Sequence[Line]) -> Chart:
    values = [v for line in lines for v in line.y if math.isfinite(v)]
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    epochs = [epoch for line in lines for epoch in line.x]
    return Chart(title, Axis("epoch", 1, max(2, *epochs)), spanning(label, values, log), lines)


def cost_charts(tables: Sequence[Table], runs: Sequence[Run]) -> Charts:
    """Return accuracy against costs, both means over categories, a point for each setting; no chart without points."""
    settings, charts = by_setting(runs), []
    measured = [table for metric in MAIN for table in tables if table.metric == metric]
    for table, (name, (title, label)) in product(measured[:1], OVER.items()):
        dots = [dot for column in table.columns if (dot := _dot(column, settings, name))]
        if dots:
            metric = metric_title(table.metric)
            x = spanning(label, [d.x for d in dots], log=True)
            y = spanning(metric, [v for d in dots for v in (d.y, d.low, d.high)])
            charts.append(Chart(f"{metric} {title}", x, y, dots=dots))
    devices = sorted({str(run.manifest["device"]) for run in runs if run.manifest.get("device")})
    note = "Bars: standard deviation over seeds; of a single run in one category its interval over the test images."
    note += f" Measured on {' and '.join(devices)}"
    note += ": times of different devices cannot be compared." if len(devices) > 1 else "."
    return Charts(charts, note, _legend(runs))


def _dot(column: Column, settings: Mapping[str, Sequence[Run]], name: str) -> Dot | None:
    """Return the point of a setting; None where something was not measured."""
    last, cost = column.cells[-1], mean_cost(settings[column.head], name) if column.ours else math.nan
    if not last or math.isnan(last.value) or not cost > 0:
        return None
    title = f"{column.head}: {four(last.value)}, {short_number(cost)} {COSTS[name][1]}"
    low, high = last.value - last.std, last.value + last.std
    if math.isnan(last.std) and last.interval:
        low, high = last.interval
    return Dot(settings[column.head][0].style, title, cost, last.value, low, high)
