"""Paper versus ours as text: Markdown for people, one long CSV for programs, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from anomaly_bench.files import write_atomic
from anomaly_bench.results.aggregate import as_published, four
from anomaly_bench.results.published import Published
from anomaly_bench.results.reproduction import LEAST, Line, Ours, Versus
from anomaly_bench.results.text import ABSENT, escape

HEADS = ("category", "published", "ours", "ours - published", "tolerance", "verdict")
FIELDS = (
    *("experiment", "dataset", "variant", "metric", "category", "published", "confidence", "source"),
    *("ours", "std", "seeds", "note", "delta", "tolerance", "inside", "differences", "warning"),
)
NOTE = (
    f"Tolerance: twice our standard deviation over seeds, at least {LEAST}; published figures come without one. "
    "A published figure that was not checked against its source says so: `unverified` was written down from memory, "
    "`doubtful` likewise and the values do not have the stated mean. `±`: standard deviation over n seeds. Nothing is "
    "compared where categories are missing."
)


def write(tables: Sequence[Versus], folder: Path, warning: str = "") -> Path:
    """versus.md, versus.csv and versus.tex in `folder`.  warning: what stands above each table."""
    texts = {"md": markdown(tables, warning), "csv": long_csv(tables, warning), "tex": latex(tables, warning)}
    for ending, text in texts.items():
        write_atomic(folder / f"versus.{ending}", lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return folder


def markdown(tables: Sequence[Versus], warning: str = "") -> str:
    """An overview, then a section for each experiment and a table for each published column."""
    text = ["# Paper versus ours", "", *([f"**{warning}**", ""] if warning else []), NOTE, ""]
    heads, *rows = overview(tables)
    text += _markdown_table(heads, rows)
    for experiment, group in groupby(tables, key=lambda table: table.asked.experiment):
        shown = list(group)
        text += ["", f"## {experiment}", "", shown[0].asked.title]
        for table in shown:
            text += ["", f"### {table.name}", "", *([f"**{warning}**", ""] if warning else [])]
            if table.differences:
                text += [f"Ours differs from what was published: {', '.join(table.differences)}.", ""]
            text += _markdown_table(HEADS, [cells(line) for line in table.lines])
            text += ["", *(f"- {source}" for source in table.sources)]
    return "\n".join(text) + "\n"


def long_csv(tables: Sequence[Versus], warning: str = "") -> str:
    """A line for each cell; numbers as they are, an empty field where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for table in tables:
        for line in table.lines:
            figure, ours = line.published, line.ours
            quoted = (figure.value, figure.confidence, figure.source) if figure else ("", "", "")
            inside = "" if line.inside is None else str(line.inside).lower()
            found = [_number(ours.value), _number(ours.std), ours.seeds or "", ours.note, _number(line.delta)]
            places = [table.asked.experiment, table.asked.dataset, table.variant, table.metric, line.category]
            writer.writerow([*places, *quoted, *found, _tolerance(line), inside, "; ".join(table.differences), warning])
    return text.getvalue()


def latex(tables: Sequence[Versus], warning: str = "") -> str:
    """One `table` environment for each published column, to be \\input."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(table, warning) for table in tables)


def cells(line: Line) -> list[str]:
    """A line as text."""
    delta = ABSENT if math.isnan(line.delta) else f"{line.delta:+.4f}"
    verdict = ABSENT if line.inside is None else "inside" if line.inside else "outside"
    tolerance = _tolerance(line)
    shown = f"{tolerance:.4f}" if tolerance else ABSENT
    return [line.category.replace("_", " "), quote(line.published), own(line.ours), delta, shown, verdict]


def quote(figure: Published | None) -> str:
    """A published figure with its confidence: `0.970 (unverified)`."""
    return f"{as_published(figure.value)} ({figure.confidence})" if figure else ABSENT


def own(ours: Ours) -> str:
    """`0.8012 ± 0.0034 (n=3)`, or why there is nothing."""
    if math.isnan(ours.value):
        return ours.note
    text = four(ours.value)
    if not math.isnan(ours.std):
        text += f" ± {ours.std:.4f}"
    notes = [*([f"n={ours.seeds}"] if ours.seeds else []), *([ours.note] if ours.note else [])]
    return f"{text} ({', '.join(notes)})" if notes else text


def overview(tables: Sequence[Versus]) -> list[list[str]]:
    """Headings, then a line for each table: the mean, or the only line."""
    heads = ["experiment", "table", "published", "ours", "cells"]
    return [heads, *([t.asked.experiment, t.name, *_outcome(t), t.summary()] for t in tables)]


def _outcome(table: Versus) -> tuple[str, str]:
    """The last line with a published figure, which is the mean where there is one; published and ours."""
    line = next((line for line in table.lines if line.category == "mean"), table.lines[-1])
    return quote(line.published), own(line.ours)


def _tolerance(line: Line) -> float | str:
    return "" if line.inside is None else line.ours.tolerance


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in heads[1:])]
    body = [[text.replace("|", "\\|") for text in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *body)]


def _latex_table(table: Versus, warning: str) -> str:
    lines = [" & ".join(escape(text) for text in cells(line)) + r" \\" for line in table.lines]
    first_mean = next((i for i, line in enumerate(table.lines) if line.category.startswith("mean")), None)
    if first_mean:
        lines.insert(first_mean, r"\midrule")
    said = [warning.rstrip("."), f"{table.asked.experiment}, {table.name}"]
    said += [f"Ours differs: {', '.join(table.differences)}"] if table.differences else []
    body = "\n".join(["\\toprule", " & ".join(HEADS) + r" \\", "\\midrule", *lines, "\\bottomrule"])
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape('. '.join(filter(None, said)))}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(HEADS) - 1)}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )
