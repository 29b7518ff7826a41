"""A table as text, before it is Markdown, LaTeX, a page or a terminal's."""

from __future__ import annotations

from typing import NamedTuple

ABSENT = "–"


class Grid(NamedTuple):
    """A table as text, and how it is set."""

    cells: list[list[str]]  # the headings, then the lines
    sides: str  # `l` or `r` for each column
    rule: int | None = None  # the line, counted from 0, above which a rule is drawn


def markdown_table(grid: Grid) -> list[str]:
    """Return the lines of a Markdown table."""
    headings, *lines = [[text.replace("|", "\\|") for text in line] for line in grid.cells]
    rule = ["---:" if side == "r" else "---" for side in grid.sides]
    return [f"| {' | '.join(line)} |" for line in (headings, rule, *lines)]
