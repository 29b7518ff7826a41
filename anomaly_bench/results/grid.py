"""A table as text, before it is Markdown, LaTeX, a page or a terminal's."""

from __future__ import annotations

from typing import NamedTuple

ABSENT = "–"


class Grid(NamedTuple):
    """A table as text, and how it is set."""

    cells: list[list[str]]  # the headings, then the lines
    sides: str  # `l` or `r` for each column
    rule: int | None = None  # the line, counted from 0, above which a rule is drawn
    bold: frozenset[tuple[int, int]] = frozenset()  # line and column of cells whose first word is set in bold


def markdown_table(grid: Grid) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[text.replace("|", "\\|") for text in line] for line in grid.cells]
    for i, k in grid.bold:
        value, space, rest = cells[i + 1][k].partition(" ")
        cells[i + 1][k] = f"**{value}**{space}{rest}"
    headings, *lines = cells
    rule = ["---:" if side == "r" else "---" for side in grid.sides]
    return [f"| {' | '.join(line)} |" for line in (headings, rule, *lines)]
