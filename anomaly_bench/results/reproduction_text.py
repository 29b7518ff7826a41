"""Paper versus ours as text: Markdown for people, one long CSV for programs, LaTeX for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from anomaly_bench.files import csv_text, write_text
from anomaly_bench.results.aggregate import baseline_table, four, published_cell
from anomaly_bench.results.grid import ABSENT, Grid, markdown_table
from anomaly_bench.results.latex import latex_file, latex_table
from anomaly_bench.results.reproduction import ENOUGH, LEVEL, OTHER, Line, Versus
from anomaly_bench.results.seed_means import SeedMean
from anomaly_bench.results.text import baselines_markdown, cell_text

FIELDS = (
    *("experiment", "dataset", "variant", "metric", "category", "published", "confidence", "source", "chosen"),
    *("ours", "std", "seeds", "note", "delta", "tolerance", "verdict", "differences", "warning", "baseline"),
)
NOTE = (
    f"Tolerance: half the width of the {LEVEL:.0%} prediction interval for one more run, from our n seeds; where the "
    "published deviation is known, of the interval for a difference of means. `inside`: the published figure lies in "
    f"it. No verdict with fewer than {ENOUGH} seeds, where the setting differs, for stand-ins or a part of the data "
    "set, and on a figure that was not checked. "
    "A published figure that was not checked against its source says so: `unverified` was written down from memory, "
    "`doubtful` likewise and the values do not have the stated mean. `±`: standard deviation over n seeds. Nothing is "
    "compared where categories are missing. Baseline: grey values without a model (`method=brightness`), on the same "
    "images; it is compared with nothing."
)


def write_versus(tables: Sequence[Versus], folder: Path, warning: str = "") -> Path:
    """Write versus.md, versus.csv and versus.tex in `folder`.  warning: what stands above each table."""
    texts = {"md": versus_markdown, "csv": versus_csv, "tex": versus_latex}
    for ending, text in texts.items():
        write_text(folder / f"versus.{ending}", text(tables, warning))
    return folder


def versus_markdown(tables: Sequence[Versus], warning: str = "") -> str:
    """Return an overview, then a section for each experiment: a table for each published column, and baselines."""
    warned = [f"**{warning}**", ""] if warning else []
    text = ["# Paper versus ours", "", *warned, NOTE, "", *markdown_table(Grid(overview(tables), "lrrrr"))]
    for experiment, group in groupby(tables, key=lambda table: table.request.experiment):
        shown = list(group)
        text += ["", f"## {experiment}", "", shown[0].request.title]
        for table in shown:
            text += ["", f"### {table.name}", "", *warned]
            if table.differences:
                text += [f"Ours differs from what was published: {', '.join(table.differences)}.", ""]
            text += [*markdown_table(versus_grid(table)), "", *(f"- {source}" for source in table.sources)]
        measured = {(t.request.dataset, t.metric): [line.category for line in t.lines] for t in shown}
        for (dataset, metric), lines in measured.items():
            if quoted := baseline_table(dataset, metric, lines):
                text += ["", f"### {dataset} {metric}: baselines", *baselines_markdown(quoted)]
    return "\n".join(text) + "\n"


def versus_csv(tables: Sequence[Versus], warning: str = "") -> str:
    """Return a CSV with a line for each cell; numbers as they are, an empty field where there is none."""
    lines: list[Sequence[object]] = [FIELDS]
    for table in tables:
        for line in table.lines:
            figure, ours = line.published, line.ours
            quoted = (figure.value, figure.confidence, figure.source, figure.chosen) if figure else ("", "", "", "")
            found = [_number(ours.value), _number(ours.std), ours.seeds or "", ours.note, _number(line.delta)]
            where = [table.request.experiment, table.request.dataset, table.variant, table.metric, line.category]
            last = ["; ".join(table.differences), warning, _number(line.baseline)]
            lines.append([*where, *quoted, *found, _number(line.tolerance), line.verdict, *last])
    return csv_text(lines)


def versus_latex(tables: Sequence[Versus], warning: str = "") -> str:
    """Return one LaTeX `table` environment for each published column."""
    texts = []
    for i, table in enumerate(tables, 1):
        caption = [warning.rstrip(".")] if warning else []
        caption += [f"{table.request.experiment}, {table.name}"]
        caption += [f"Ours differs: {', '.join(table.differences)}"] if table.differences else []
        texts.append(latex_table(". ".join(caption), f"versus-{table.request.experiment}-{i}", versus_grid(table)))
    return latex_file(texts)


def versus_grid(table: Versus) -> Grid:
    """Return a table as text, a line for each category and mean."""
    headings = ["category", "published", "ours", "ours - published", "tolerance", "verdict", "baseline"]
    means = (i for i, line in enumerate(table.lines) if line.category.startswith("mean"))
    return Grid([headings, *map(line_cells, table.lines)], "lrrrrrr", next(means, None))


def line_cells(line: Line) -> list[str]:
    """Return a line as text."""
    compared = [ABSENT] * 3
    if line.verdict:
        tolerance = ABSENT if math.isnan(line.tolerance) else f"{line.tolerance:.4f}"
        compared = [f"{line.delta:+.4f}", tolerance, line.verdict]
    return [
        line.category.replace("_", " "),
        cell_text(published_cell(line.published)),
        with_deviation(line.ours),
        *compared,
        ABSENT if math.isnan(line.baseline) else four(line.baseline),
    ]


def with_deviation(ours: SeedMean) -> str:
    """Return `0.8012 ± 0.0034 (n=3)`, or why there is nothing."""
    if math.isnan(ours.value):
        return ours.note
    deviation = "" if math.isnan(ours.std) else f" ± {ours.std:.4f}"
    notes = ", ".join(filter(None, [f"n={ours.seeds}" if ours.seeds else "", ours.note]))
    return f"{four(ours.value)}{deviation}" + (f" ({notes})" if notes else "")


def overview(tables: Sequence[Versus]) -> list[list[str]]:
    """Return headings, then a line for each table: the mean where one was published, else the last line."""
    lines = [["experiment", "table", "published", "ours", "cells"]]
    for table in tables:
        shown = next((line for line in table.lines if line.category == "mean"), table.lines[-1])
        published, ours = cell_text(published_cell(shown.published)), with_deviation(shown.ours)
        name = f"{table.name} ({OTHER})" if table.differences else table.name
        lines.append([table.request.experiment, name, published, ours, table.summary()])
    return lines


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value
