"""Tables to be pasted into a paper: readable names, the number of seeds once, the best and what equals it in bold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from anomaly_bench.results.aggregate import BASELINE, Cell, Column, Table, metric_name
from anomaly_bench.results.collect import Measured, Row
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.grid import ABSENT, Grid
from anomaly_bench.results.text import COSTS, by_metric, comparison_grid, costs_grid

BOLD = "Bold: the best, and what the comparisons do not tell from it (Wilcoxon's signed-rank test, Holm, p < 0.05)"
INTERVAL = f"[low, high]: {Measured.level:.0%} interval over the test images of a single run"
COSTS_REMARK = "Costs: means over categories and seeds, of memory the highest; times are of the runs' own hardware"
LIMIT = "@: area up to this false-positive rate"


class PaperTable(NamedTuple):
    """A table and what is said about it."""

    dataset: str
    title: str  # `image AUROC`
    remarks: list[str]  # sentences without their full stop, which say how to read it
    grid: Grid

    @property
    def caption(self) -> str:
        """What the table shows, and how to read it."""
        said = f"{self.title} on {dataset_title(self.dataset)}"
        return " ".join(f"{sentence}." for sentence in [said[0].upper() + said[1:], *self.remarks])


def dataset_title(name: str) -> str:
    """Return what a data set is called by its authors, where that is known."""
    from anomaly_bench.runs.benchmarks import benchmark, benchmarks  # with pydantic, which takes long to import

    return benchmark(name).title if name in benchmarks() else name


def paper_tables(
    tables: Sequence[Table], compared: Sequence[Comparison], rows: Sequence[Row], one_table: bool
) -> Iterator[PaperTable]:
    """Yield the tables of each data set: one for each metric and one of the costs or, one_table, a single one."""
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        here = [row for row in rows if row.dataset == dataset]
        if one_table:
            yield all_metrics(list(group), compared, here)
        else:
            yield from (one_metric(table, compared) for table in group)
            yield PaperTable(dataset, "costs", [COSTS_REMARK.removeprefix("Costs: ")], costs_grid(here))


def paper_comparisons(compared: Sequence[Comparison]) -> Iterator[PaperTable]:
    """Yield a table of comparisons for each data set and metric."""
    for dataset, metric, found in by_metric(compared):
        yield PaperTable(dataset, f"comparisons of {metric_name(metric)}", [], comparison_grid(found))


def one_metric(table: Table, compared: Sequence[Comparison]) -> PaperTable:
    """Return categories x settings."""
    best, seeds = best_headings(table, compared), common_seeds([table])
    cells = [["category", *map(_head, table.columns)]]
    for i, name in enumerate(table.lines):
        cells.append([name, *(_text(column.cells[i], seeds, common_note(column)) for column in table.columns)])
    last = len(table.lines) - 1
    bold = frozenset((last, k) for k, column in enumerate(table.columns, 1) if column.ours and column.head in best)
    grid = Grid(cells, "l" + "r" * len(table.columns), table.mean_line, bold)
    name = metric_name(table.metric)
    return PaperTable(table.dataset, name, remarks_on([table], seeds, bool(bold), name), grid)


def all_metrics(tables: Sequence[Table], compared: Sequence[Comparison], rows: Sequence[Row]) -> PaperTable:
    """Return metrics and costs x settings of one data set: the last line of each of its tables."""
    seeds, (_, *costs) = common_seeds(tables, last=True), costs_grid(rows).cells
    order = {heading: i for i, (heading, *_) in enumerate(costs)}
    lines: list[dict[tuple[str, str], str]] = []
    best = [best_headings(table, compared) for table in tables]
    for table in tables:
        heading, line = "", {}
        for column in table.columns:
            heading = column.head if column.ours else heading
            if column.ours or column.cells[-1]:
                line[heading, "" if column.ours else column.head] = _text(column.cells[-1], seeds)
        lines.append(line)
    keys = sorted({key for line in lines for key in line}, key=lambda key: (order[key[0]], key[1]))
    names = [metric_name(table.metric) for table in tables]
    cells = [["", *(source or heading for heading, source in keys)]]
    cells += [[name, *(line.get(key, ABSENT) for key in keys)] for name, line in zip(names, lines, strict=True)]
    for k, name in enumerate(COSTS, 2):
        cells.append([name, *(ABSENT if source else costs[order[heading]][k] for heading, source in keys)])
    ours = [(k, heading) for k, (heading, source) in enumerate(keys, 1) if not source]
    bold = frozenset((i, k) for i, settings in enumerate(best) for k, heading in ours if heading in settings)
    mean = tables[0].lines[-1].replace("mean of", "Means over") + " categories"
    said = [
        *([mean] if tables[0].mean_line else []),
        *remarks_on(tables, seeds, bool(bold), " ".join(names), last=True),
    ]
    grid = Grid(cells, "l" + "r" * len(keys), len(tables), bold)
    return PaperTable(tables[0].dataset, "results", [*said, COSTS_REMARK], grid)


def best_headings(table: Table, compared: Iterable[Comparison]) -> set[str]:
    """Return the setting with the highest last line and those that comparisons do not tell from it.

    Only settings with all categories, and no baselines; empty where the best one was compared with none of them.
    """
    values = {
        column.head: column.cells[-1].value
        for column in table.columns
        if column.ours
        and column.cells[-1]
        and all(column.cells)
        and not column.head.endswith(BASELINE)
        and not math.isnan(column.cells[-1].value)
    }
    if not values:
        return set()
    best = max(values, key=lambda head: values[head])
    told = {}
    for c in compared:
        if (c.dataset, c.metric) == (table.dataset, table.metric) and not c.check and best in (c.first, c.second):
            told[c.second if c.first == best else c.first] = c.distinguishable
    others = told.keys() & values.keys()
    return {best, *(head for head in others if not told[head])} if others else set()


def common_seeds(tables: Iterable[Table], last: bool = False) -> int:
    """Return the number of seeds behind most of our figures; 0 where none has a deviation.  last: of the last lines."""
    counts = Counter(cell.runs for cell in _ours(tables, last) if not math.isnan(cell.std))
    return max(counts, key=lambda n: (counts[n], n), default=0)


def common_note(column: Column) -> str:
    """Return what all figures of a published column say, such as `unverified`; empty for our own."""
    notes = {cell.note for cell in column.cells if cell}
    return notes.pop() if len(notes) == 1 and not column.ours else ""


def remarks_on(tables: Sequence[Table], seeds: int, bold: bool, names: str, last: bool = False) -> list[str]:
    """Return what the figures of tables must be read with.  last: only the last line of each is shown."""
    cells = list(_ours(tables, last))
    said = []
    if seeds:
        others = " where nothing else is said" if any(c.runs != seeds and not math.isnan(c.std) for c in cells) else ""
        said.append(f"Mean ± standard deviation over n = {seeds} seeds{others}")
    said += [INTERVAL] if any(cell.interval for cell in cells) else []
    return [*said, *([LIMIT] if "@" in names else []), *([BOLD] if bold else [])]


def _ours(tables: Iterable[Table], last: bool) -> Iterator[Cell]:
    """Yield our own figures."""
    for column in (column for table in tables for column in table.columns if column.ours):
        yield from filter(None, column.cells[-1:] if last else column.cells)


def _head(column: Column) -> str:
    """Return the heading of a column, with what all its figures say."""
    note = common_note(column)
    return f"{column.head} ({note})" if note else column.head


def _text(cell: Cell | None, seeds: int, note: str = "") -> str:
    return ABSENT if cell is None else cell.text(seeds, note)
