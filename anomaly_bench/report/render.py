"""Tables as text: CSV for programs, Markdown for people, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from anomaly_bench.report.collect import Collected, Measured, Row
from anomaly_bench.report.summary import Cell, Table, in_order

ABSENT = "–"
CELLS_NOTE = (
    f"[low, high]: {Measured.level:.0%} interval over the test images of a single run (bootstrap); "
    "±: standard deviation over seeds."
)
PUBLISHED_NOTE = "Published figures belong to the setting on their left; `unverified`: not checked against the source."
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"},
}


def long_csv(rows: Sequence[Row]) -> str:
    """One line for each finished run."""
    metrics = in_order({m for row in rows for m in row.metrics})
    fields = ["setting", "label", "method", "dataset", "category", "seed"]
    sure = in_order({m for row in rows for m in row.measured.intervals})
    heads = [*metrics, *(f"{m}_{end}" for m in sure for end in ("low", "high")), "measured"]
    lines: list[list[object]] = [[*fields, *heads, "seconds", "peak_memory_mb", "path"]]
    for row in rows:
        values: list[object] = [row.metrics.get(metric, "") for metric in metrics]
        values += [end for metric in sure for end in row.measured.intervals.get(metric, ("", ""))]
        values += [row.measured.how, row.seconds, row.peak_memory_mb, row.path]
        lines.append([*(getattr(row, f) for f in fields), *values])
    return _csv(lines)


def wide_csv(tables: Sequence[Table]) -> str:
    """All tables of one data set below each other; of each setting the value, its deviation, the seeds and a note."""
    records = [_record(table, i) for table in tables for i in range(len(table.lines))]
    fields = list(dict.fromkeys(key for record in records for key in record))
    return _csv([fields, *([record.get(key, "") for key in fields] for record in records)])


def markdown(tables: Sequence[Table], collected: Collected) -> str:
    """The whole report: tables, the sources of published figures, and what was left out."""
    text = ["# Report", "", f"{len(collected.rows)} finished runs; left out: {collected.left_out_line()}.", ""]
    text += [CELLS_NOTE, ""]
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        text += [f"## {dataset}", ""]
        for table in group:
            text += [f"### {table.metric}", "", *_markdown_table(table), ""]
    if sources := dict.fromkeys(str(figure) for table in tables for c in table.columns for figure in c.quoted):
        text += ["## Published figures", "", PUBLISHED_NOTE, "", *(f"- {source}" for source in sources), ""]
    if collected.left_out:
        text += ["## Left out", "", *(f"- {item}" for item in collected.left_out), ""]
    return "\n".join(text)


def latex(tables: Sequence[Table]) -> str:
    """One `table` environment for each data set and metric, to be \\input."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(table) for table in tables)


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _record(table: Table, i: int) -> dict[str, object]:
    """A line of a table; published figures are named with the setting that they belong to."""
    record: dict[str, object] = {"metric": table.metric, "category": table.lines[i]}
    setting = ""
    for column in table.columns:
        setting = column.head if column.ours else setting
        head = setting if column.ours else f"{setting} / {column.head}"
        cell = column.cells[i] or Cell(math.nan)
        record[head] = cell.value if column.cells[i] else ""
        if column.ours:
            record[f"{head} std"] = "" if math.isnan(cell.std) else cell.std
            record[f"{head} seeds"] = cell.runs or ""
            record[f"{head} low"], record[f"{head} high"] = cell.interval or ("", "")
        record[f"{head} note" if column.ours else f"{head} confidence"] = cell.note
    return record


def grid(table: Table) -> list[list[str]]:
    """The table as text: a heading line, then a line for each category."""
    heads = ["category", *(column.head for column in table.columns)]
    cells = ((line, *(column.cells[i] for column in table.columns)) for i, line in enumerate(table.lines))
    return [heads, *([ABSENT if cell is None else str(cell) for cell in line] for line in cells)]


def _markdown_table(table: Table) -> list[str]:
    heads, *lines = [[text.replace("|", "\\|") for text in line] for line in grid(table)]
    rule = ["---", *("---:" for _ in heads[1:])]
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *lines)]


def _latex_table(table: Table) -> str:
    heads, *lines = [" & ".join(escape(text) for text in line) + r" \\" for line in grid(table)]
    if table.lines[-1].startswith("mean of "):
        lines.insert(-1, r"\midrule")
    body = "\n".join(["\\toprule", heads, "\\midrule", *lines, "\\bottomrule"])
    columns = "l" + "r" * len(table.columns)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape(f'{table.metric} on {table.dataset}')}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )
