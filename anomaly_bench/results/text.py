"""Tables as text: CSV for programs, Markdown for people, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby

from anomaly_bench.results.aggregate import Cell, Table, in_order
from anomaly_bench.results.collect import Collected, Measured, Row
from anomaly_bench.results.comparisons import Comparison

ABSENT = "–"
CELLS_NOTE = (
    f"[low, high]: {Measured.level:.0%} interval over the test images of a single run (bootstrap); "
    "±: standard deviation over seeds."
)
PUBLISHED_NOTE = "Published figures belong to the setting on their left; `unverified`: not checked against the source."
COMPARED, COMPARED_SIDES = ("first", "second", "difference", "pairs", "verdict"), "llrrl"
COMPARED_NOTE = (
    "Difference: first minus second, mean over the categories and seeds that both have, with its 95% bootstrap "
    "interval; p: Wilcoxon's signed-rank test, corrected for the number of comparisons (Holm). See docs/statistics.md."
)
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"},
}


def long_csv(rows: Sequence[Row]) -> str:
    """One line for each finished run."""
    metrics = in_order({m for row in rows for m in row.metrics})
    names = ["setting", "label", "method", "dataset", "category", "seed"]
    sure = in_order({m for row in rows for m in row.measured.intervals})
    heads = [*metrics, *(f"{m}_{end}" for m in sure for end in ("low", "high")), "measured"]
    lines: list[list[object]] = [[*names, *heads, "seconds", "peak_memory_mb", "path"]]
    for row in rows:
        values: list[object] = [row.metrics.get(metric, "") for metric in metrics]
        values += [end for metric in sure for end in row.measured.intervals.get(metric, ("", ""))]
        values += [row.measured.how, row.seconds, row.peak_memory_mb, row.path]
        lines.append([*(getattr(row, name) for name in names), *values])
    return _csv(lines)


def wide_csv(tables: Sequence[Table]) -> str:
    """All tables of one data set below each other; of each setting the value, its deviation, the seeds and a note."""
    records = [_record(table, i) for table in tables for i in range(len(table.lines))]
    heads = list(dict.fromkeys(key for record in records for key in record))
    return _csv([heads, *([record.get(key, "") for key in heads] for record in records)])


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """One line for each comparison."""
    heads = [*(f.name for f in fields(Comparison)), "verdict"]
    lines = ([getattr(c, head) for head in heads] for c in comparisons)
    return _csv([heads, *(["" if v != v else v for v in line] for line in lines)])  # nan is empty


def comparison_grid(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Comparisons as text: a heading line, then a line for each."""
    return [list(COMPARED), *(_compared(c) for c in comparisons)]


def alarms(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each setting whose seeds differ from its own other seeds."""
    return [
        f"{c.dataset} {c.metric}: {c.first} and {c.second} are the same method and came out as different ({c.why}); "
        "by chance one check in 20 does, more often something else than the seed differs between these runs"
        for c in comparisons
        if c.check and c.distinguishable
    ]


def _compared(c: Comparison) -> list[str]:
    difference = f"{c.difference:+.4f}" + ("" if math.isnan(c.low) else f" [{c.low:+.4f}, {c.high:+.4f}]")
    pairs = f"{c.pairs} in {c.categories}" if c.categories > 1 else str(c.pairs)
    return [c.first, c.second, difference, pairs, c.verdict]


def markdown(
    tables: Sequence[Table], collected: Collected, comparisons: Sequence[Comparison] = (), notes: Sequence[str] = ()
) -> str:
    """The whole report: tables, comparisons with notes on them, sources of published figures, what was left out."""
    text = ["# Report", "", f"{len(collected.rows)} finished runs; left out: {collected.left_out_line()}.", ""]
    text += [CELLS_NOTE, ""]
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        text += [f"## {dataset}", ""]
        for table in group:
            text += [f"### {table.metric}", "", *_markdown(grid(table), "l" + "r" * len(table.columns)), ""]
    if comparisons:
        text += ["## Comparisons", "", COMPARED_NOTE, ""]
        text += [line for note in (*notes, *(f"**{alarm}**" for alarm in alarms(comparisons))) for line in (note, "")]
        for (dataset, metric), found in groupby(comparisons, key=lambda c: (c.dataset, c.metric)):
            text += [f"### {dataset} {metric}", "", *_markdown(comparison_grid(list(found)), COMPARED_SIDES), ""]
    if sources := dict.fromkeys(str(figure) for table in tables for c in table.columns for figure in c.quoted):
        text += ["## Published figures", "", PUBLISHED_NOTE, "", *(f"- {source}" for source in sources), ""]
    if collected.left_out:
        text += ["## Left out", "", *(f"- {item}" for item in collected.left_out), ""]
    return "\n".join(text)


def latex(tables: Sequence[Table], comparisons: Sequence[Comparison] = ()) -> str:
    """One `table` environment for each data set and metric, then one for its comparisons, to be \\input."""
    text = [_latex_table(f"{t.metric} on {t.dataset}", grid(t), "l" + "r" * len(t.columns)) for t in tables]
    for (dataset, metric), found in groupby(comparisons, key=lambda c: (c.dataset, c.metric)):
        text.append(_latex_table(f"{metric} on {dataset}, compared", comparison_grid(list(found)), COMPARED_SIDES))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(text)


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


def _markdown(cells: list[list[str]], sides: str) -> list[str]:
    """sides: `l` or `r` for each column."""
    heads, *lines = [[text.replace("|", "\\|") for text in line] for line in cells]
    rule = ["---:" if side == "r" else "---" for side in sides]
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *lines)]


def _latex_table(caption: str, cells: list[list[str]], sides: str) -> str:
    heads, *lines = [" & ".join(escape(text) for text in line) + r" \\" for line in cells]
    if cells[-1][0].startswith("mean of "):
        lines.insert(-1, r"\midrule")
    body = "\n".join(["\\toprule", heads, "\\midrule", *lines, "\\bottomrule"])
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape(caption)}}}\n"
        f"\\begin{{tabular}}{{{sides}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )
