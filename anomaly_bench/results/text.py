"""Tables as text, and as CSV; whole reports in Markdown, LaTeX and the terminal are in the files of these names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from statistics import fmean

from anomaly_bench.files import csv_text, records_csv
from anomaly_bench.results.aggregate import Cell, Table, in_order, settings
from anomaly_bench.results.collect import Measured, Row
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.grid import ABSENT, Grid, markdown_table

CELLS_NOTE = (
    f"[low, high]: {Measured.level:.0%} interval over the test images of a single run; "
    "±: standard deviation over seeds."
)
PUBLISHED_NOTE = "Published figures belong to the setting on their left; `unverified`: not checked against the source."
BASELINES_NOTE = "Baselines as a paper published them, for the scale: none of them was run here, and none is compared."
COMPARED_NOTE = (
    "Difference: first minus second, mean over the categories and seeds that both have, with its 95% interval "
    "(Student's t); first ahead: in this share of the pairs, ties by half; p: Wilcoxon's signed-rank test, corrected "
    "for the number of comparisons (Holm); what could have been told apart: in 4 of 5 such comparisons. See "
    "docs/statistics.md."
)
COSTS = ("training, s", "ms/image", "peak memory, MB")


def cell_text(cell: Cell | None) -> str:
    """Return a cell as text, a dash where there is none."""
    return ABSENT if cell is None else str(cell)


def table_grid(table: Table) -> Grid:
    """Return a table as text, a line for each category."""
    cells = [["category", *(column.head for column in table.columns)]]
    for i, name in enumerate(table.lines):
        cells.append([name, *(cell_text(column.cells[i]) for column in table.columns)])
    return Grid(cells, "l" + "r" * len(table.columns), table.mean_line)


def baselines_markdown(table: Table) -> list[str]:
    """Return the lines of a table of published baselines, then their sources."""
    sources = dict.fromkeys(f"- {figure.confidence}: {figure.origin}" for c in table.columns for figure in c.quoted)
    return ["", BASELINES_NOTE, "", *markdown_table(table_grid(table)), "", *sources]


def comparison_grid(comparisons: Sequence[Comparison]) -> Grid:
    """Return comparisons as text, a line for each."""
    cells = [["first", "second", "difference", "first ahead", "pairs", "verdict"]]
    for c in comparisons:
        difference = f"{c.difference:+.4f}" + ("" if math.isnan(c.low) else f" [{c.low:+.4f}, {c.high:+.4f}]")
        pairs = f"{c.pairs} in {c.categories}" if c.categories > 1 else str(c.pairs)
        cells.append([c.first, c.second, difference, f"{c.ahead:.0%}", pairs, c.verdict])
    return Grid(cells, "llrrrl")


def costs_grid(rows: Sequence[Row]) -> Grid:
    """Return what the runs of a data set took as text, a line for each setting: means over categories and seeds."""
    cells = [["setting", "runs", *COSTS]]
    for heading, group in settings(rows).items():
        each = [[row.train_s for row in group], [row.ms_per_image for row in group]]
        measured = [[v for v in found if not math.isnan(v)] for found in each]
        memory = max(row.peak_memory_mb for row in group)
        means = [f"{fmean(found):.1f}" if found else ABSENT for found in measured]
        cells.append([heading, str(len(group)), *means, ABSENT if math.isnan(memory) else f"{memory:.0f}"])
    return Grid(cells, "lrrrr")


def by_metric(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str, list[Comparison]]]:
    """Yield data set, metric and comparisons of each family."""
    for (dataset, metric), found in groupby(comparisons, key=lambda c: (c.dataset, c.metric)):
        yield dataset, metric, list(found)


def runs_csv(rows: Sequence[Row]) -> str:
    """Return a CSV with one line for each finished run."""
    metrics = in_order({m for row in rows for m in row.metrics})
    names = ["setting", "label", "method", "dataset", "category", "seed"]
    intervals = in_order({m for row in rows for m in row.measured.intervals})
    ends = [f"{metric}_{end}" for metric in intervals for end in ("low", "high")]
    taken = ["seconds", "train_s", "ms_per_image", "peak_memory_mb"]
    lines: list[list[object]] = [
        [*names, *metrics, *ends, "measured", *taken, "path", "confound", "learning"],
    ]
    for row in rows:
        values: list[object] = [row.metrics.get(metric, "") for metric in metrics]
        values += [end for metric in intervals for end in row.measured.intervals.get(metric, ("", ""))]
        values += [
            row.measured.how,
            *(getattr(row, name) for name in taken),
            row.path,
            row.confound or "",
            row.learning,
        ]
        lines.append([*(getattr(row, name) for name in names), *values])
    return csv_text(lines)


def tables_csv(tables: Sequence[Table]) -> str:
    """Return the tables of one data set below each other; of each setting value, deviation, seeds and a note."""
    return records_csv([_record(table, i) for table in tables for i in range(len(table.lines))])


def _record(table: Table, i: int) -> dict[str, object]:
    """Return a line of a table by heading; published figures are named with the setting that they belong to."""
    record: dict[str, object] = {"metric": table.metric, "category": table.lines[i]}
    setting = ""
    for column in table.columns:
        setting = column.head if column.ours else setting
        heading = setting if column.ours else f"{setting} / {column.head}"
        cell = column.cells[i] or Cell(math.nan)
        record[heading] = cell.value if column.cells[i] else ""
        if column.ours:
            record[f"{heading} std"] = "" if math.isnan(cell.std) else cell.std
            record[f"{heading} seeds"] = cell.runs or ""
            record[f"{heading} low"], record[f"{heading} high"] = cell.interval or ("", "")
        record[f"{heading} note" if column.ours else f"{heading} confidence"] = cell.note
    return record


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """Return a CSV with one line for each comparison; nan is empty."""
    headings = [*(f.name for f in fields(Comparison)), "verdict"]
    lines = ([getattr(c, heading) for heading in headings] for c in comparisons)
    return csv_text([headings, *(["" if v != v else v for v in line] for line in lines)])
