"""LaTeX tables, to be \\input: of a report, and of paper versus ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from anomaly_bench.results.aggregate import Table
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.grid import Grid
from anomaly_bench.results.text import by_metric, comparison_grid, table_grid

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"},
}


def escape(text: str) -> str:
    """Return plain text as LaTeX."""
    return "".join(SPECIAL.get(character, character) for character in text)


def latex_table(caption: str, grid: Grid, notes: Sequence[str] = ()) -> str:
    """Return one `table` environment.  notes: sentences below the table."""
    headings, *lines = [" & ".join(map(escape, line)) + r" \\" for line in grid.cells]
    if grid.rule:
        lines.insert(grid.rule, r"\midrule")
    body = "\n".join([r"\toprule", headings, r"\midrule", *lines, r"\bottomrule"])
    below = "".join(f"\\par\\smallskip\\footnotesize {escape(note)}.\n" for note in notes)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape(caption)}}}\n"
        f"\\begin{{tabular}}{{{grid.sides}}}\n{body}\n\\end{{tabular}}\n{below}\\end{{table}}\n"
    )


def latex_file(tables: Sequence[str]) -> str:
    """Return the text of a file that holds these tables."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def report_latex(
    tables: Sequence[Table],
    comparisons: Sequence[Comparison] = (),
    remarks: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Return one `table` environment for each data set and metric, then one for its comparisons.

    remarks: of each data set, which stand below its first table.
    """
    text = []
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        notes = remarks.get(dataset, ())
        for table in group:
            text.append(latex_table(f"{table.metric} on {dataset}", table_grid(table), notes))
            notes = ()
    for dataset, metric, found in by_metric(comparisons):
        text.append(latex_table(f"{metric} on {dataset}, compared", comparison_grid(found)))
    return latex_file(text)
