"""LaTeX tables, to be \\input: of a report, and of paper versus ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType

from anomaly_bench.results.aggregate import Table
from anomaly_bench.results.collect import Row
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.grid import Grid
from anomaly_bench.results.paper_tables import paper_comparisons, paper_tables

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"},
    **{"<": "$<$", ">": "$>$", "|": r"\textbar{}", "×": r"$\times$"},
}
MINUS = re.compile(r"(?<![\w.$-])-(?=\d)")
HEADING, PROSE = 14, 40  # characters: longer headings and, in left-aligned columns, longer texts are broken
PROSE_WIDTH = "18em"
LINE = 84  # characters in a line of text: a wider table is scaled down


def escape(text: str) -> str:
    """Return plain text as LaTeX."""
    return MINUS.sub("$-$", "".join(SPECIAL.get(character, character) for character in text))


def latex_table(caption: str, label: str, grid: Grid, notes: Sequence[str] = ()) -> str:
    """Return one `table` environment, scaled down where it is wider than the text.  notes: sentences below it."""
    columns = list(zip(*grid.cells, strict=True))
    widths = [max(max(map(len, _broken(each[0]))), *map(len, each[1:])) for each in columns]
    prose = [side == "l" and width > PROSE for side, width in zip(grid.sides, widths, strict=True)]
    sides = "".join(f"p{{{PROSE_WIDTH}}}" if each else side for each, side in zip(prose, grid.sides, strict=True))
    lines = [[escape(text) for text in line] for line in grid.cells[1:]]
    for i, k in grid.bold:
        value, space, rest = lines[i][k].partition(" ")
        lines[i][k] = rf"\textbf{{{value}}}{space}{rest}"
    body = [" & ".join(line) + r" \\" for line in lines]
    if grid.rule:
        body.insert(grid.rule, r"\midrule")
    headings = " & ".join(map(_heading, grid.cells[0], grid.sides)) + r" \\"
    tabular = [f"\\begin{{tabular}}{{{sides}}}", r"\toprule", headings, r"\midrule", *body, r"\bottomrule"]
    tabular.append(r"\end{tabular}")
    if sum(min(width, PROSE) + 3 for width in widths) > LINE:
        tabular = [r"\resizebox{\textwidth}{!}{%", *tabular[:-1], tabular[-1] + "%", "}"]
    below = [f"\\par\\smallskip\\footnotesize {escape(note)}." for note in notes]
    head = [r"\begin{table}[tbp]", r"\centering", f"\\caption{{{escape(caption)}}}", f"\\label{{tab:{label}}}"]
    return "\n".join([*head, *tabular, *below, "\\end{table}\n"])


def _broken(heading: str) -> list[str]:
    return wrap(heading, HEADING, break_long_words=False, break_on_hyphens=False) or [""]


def _heading(text: str, side: str) -> str:
    """Return a heading, in several lines where it is long."""
    lines = list(map(escape, _broken(text)))
    stacked = r" \\ ".join(lines)
    return rf"\shortstack[{side}]{{{stacked}}}" if lines[1:] else stacked


def latex_file(tables: Sequence[str]) -> str:
    """Return the text of a file that holds these tables."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(tables)


def report_latex(
    tables: Sequence[Table],
    rows: Sequence[Row],
    compared: Sequence[Comparison] = (),
    remarks: Mapping[str, Sequence[str]] = MappingProxyType({}),
    one_table: bool = False,
) -> str:
    """Return the `table` environments of each data set, then those of the comparisons.

    remarks: of each data set, which stand below its first table.  one_table: as of `paper_tables`.
    """
    text, said = [], dict(remarks)
    for table in [*paper_tables(tables, compared, rows, one_table), *paper_comparisons(compared)]:
        label = f"{table.dataset}:{table.title}".lower().replace(",", "").replace("@", "-").replace(" ", "-")
        text.append(latex_table(table.caption, label, table.grid, said.pop(table.dataset, ())))
    return latex_file(text)
