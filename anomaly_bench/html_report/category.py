"""The page of one category: results, gallery, curves, histograms, training, cost, provenance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anomaly_bench.html_report.charts import Axis, Line, legend, line_chart, ridges, spanning
from anomaly_bench.html_report.evidence import Run, by_setting
from anomaly_bench.html_report.markup import Markup, el, section
from anomaly_bench.results.aggregate import four

SEEDS, SETTINGS = 5, 12  # drawn at most, so that lines can be told apart
BINS = 48
RATE = "false-positive rate"
SHOWN = {  # curve -> title, axis of y, end of x, metric in the hover text
    "image_roc": ("ROC of images", "anomalous images found", 1.0, "image_auroc"),
    "pixel_roc": ("ROC of pixels", "anomalous pixels found", 1.0, "pixel_auroc"),
    "pro": ("PRO: overlap of regions", "mean share of a region found", 0.3, "aupro_0.3"),
}


def drawn(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """The runs that charts show, and a word on those that they do not."""
    settings = by_setting(runs)
    kept = [run for of in list(settings.values())[:SETTINGS] for run in of[:SEEDS]]
    few = f"Drawn: the first {SETTINGS} settings and {SEEDS} seeds of each." if len(kept) < len(runs) else ""
    return kept, few


def names(runs: Sequence[Run]) -> Markup:
    return legend(list(dict.fromkeys((run.style, run.head) for run in runs)))


def curves_section(runs: Sequence[Run]) -> Markup:
    """ROC and PRO; runs without stored curves are named."""
    runs, few = drawn(runs)
    found = {id(run): run.curves() for run in runs}
    charts = []
    for name, (title, label, end, metric) in SHOWN.items():
        those = [run for run in runs if name in found[id(run)]]
        values = [four(run.row.metrics.get(metric, math.nan)) for run in those]
        lines = [
            Line(run.style, f"{run.title}: {metric} {value}", *found[id(run)][name])
            for run, value in zip(those, values, strict=True)
        ]
        if lines:
            x, y = Axis(RATE, 0, end), Axis(label, 0, 1)
            charts.append(el("figure", line_chart(title, lines, x, y, diagonal=name != "pro")))
    without = [run.title for run in runs if not found[id(run)]]
    note = f"A line for each run, exact at each of its points. {few}".strip()
    if without:
        note += f" No stored curves, which `bench eval RUN` writes: {', '.join(without)}."
    return section("Curves", names(runs), el("div", charts, class_="charts"), note=note)


def histograms_section(runs: Sequence[Run]) -> Markup:
    """How the image scores of each setting lie, by kind; of its first seed."""
    charts = [el("figure", chart) for of in by_setting(runs).values() if (chart := _histogram(of[0]))]
    note = (
        "Image scores of the first seed of each setting: the normal images, and each kind of defect with its AUROC "
        "against them. Scores beyond the middle 99 % are counted in the outermost bins."
    )
    return section("Scores", el("div", charts[:SETTINGS], class_="charts"), note=note)


def _histogram(run: Run) -> Markup | None:
    scores: dict[tuple[int, str], list[float]] = {}
    for row in run.scores():
        scores.setdefault((row.label, row.kind), []).append(row.score)
    if not scores:
        return None
    every = np.concatenate([*scores.values()])
    axis = spanning("image score", np.quantile(every, [0.005, 0.995]).tolist())
    normal = np.sort(np.concatenate([s for (label, _), s in scores.items() if not label] or [[]]))
    rows = []
    for (label, kind), values in sorted(scores.items()):
        counts, _ = np.histogram(np.clip(values, axis.low, axis.high), BINS, (axis.low, axis.high))
        remark = f"n {len(values)}"
        if label and len(normal):
            below = np.searchsorted(normal, values) + np.searchsorted(normal, values, "right")  # ties count half
            remark = f"{below.mean() / 2 / len(normal):.3f}, {remark}"
        rows.append((kind, remark, not label, (counts / len(values)).tolist()))
    return ridges(run.title, rows, axis)


def training_section(runs: Sequence[Run]) -> Markup | None:
    """A chart for each stage of each setting."""
    runs, few = drawn(runs)
    stages: dict[tuple[str, str], list[Line]] = {}
    for run in runs:
        for stage, (epochs, losses) in run.losses().items():
            title = f"{run.title}: {losses[-1]:.4g} after {len(epochs)} epochs"
            stages.setdefault((run.head, stage), []).append(Line(run.style, title, epochs, losses))
    charts = [el("figure", _loss_chart(f"{stage} · {head}", lines)) for (head, stage), lines in stages.items()]
    note = f"Mean loss of each epoch, one line for each seed. {few}".strip()
    return section("Training", el("div", charts, class_="charts"), note=note) if charts else None


def _loss_chart(title: str, lines: Sequence[Line]) -> Markup:
    values = [v for line in lines for v in line.y if math.isfinite(v)]
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    last = max(max(line.x) for line in lines)
    return line_chart(title, lines, Axis("epoch", 1, max(last, 2)), spanning("loss", values, log))
