"""What `bench train --multirun` ends with: a table of its settings, a line for each comparison, what to type next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_bench.console import print_lines
from anomaly_bench.results.aggregate import MAIN, Cell, settings, summarise
from anomaly_bench.results.collect import Row, collect_runs
from anomaly_bench.results.comparisons import Comparison, alarms, compare_settings, shortened, skipped
from anomaly_bench.results.grid import ABSENT, Grid
from anomaly_bench.results.remarks import remarks
from anomaly_bench.results.terminal import print_table
from anomaly_bench.results.text import by_metric

if TYPE_CHECKING:
    from rich.console import Console

MOST_VERDICTS = 12  # lines; of more comparisons only those that found a difference are printed
NOTE = "Mean ± standard deviation over seeds, of several categories that of the seeds' means over them."


def print_sweep(paths: Iterable[Path], console: Console | None = None) -> None:
    """Print what came of the runs in these folders; nothing where none is finished."""
    paths = list(paths)
    rows = collect_runs(paths).rows
    if not rows:
        return
    from rich.box import SIMPLE_HEAD

    for title, grid in summary_grids(rows):
        print_lines(title, console=console, style="bold")
        print_table(grid.cells, grid.sides, console, no_wrap=MAIN, box=SIMPLE_HEAD, pad_edge=False)
    said = [f"{dataset}: {remark}" for dataset, each in remarks(rows).items() for remark in each]
    outputs = sorted({shlex.quote(str(path.parents[3])) for path in paths})
    page = "every metric, curves, heat maps side by side"
    more = [f"{page}: bench report {folder}  ->  {folder}/report/index.html" for folder in outputs]
    compared = compare_settings(rows)
    print_lines(NOTE, *said, *verdicts(compared), *skipped(rows), *alarms(compared), *more, console=console)


def summary_grids(rows: Sequence[Row]) -> Iterator[tuple[str, Grid]]:
    """Yield a title and a table for each data set: settings x main metrics."""
    for dataset, group in groupby(summarise(rows), key=lambda table: table.dataset):
        tables = [table for table in group if table.metric in MAIN]
        runs = settings([row for row in rows if row.dataset == dataset])
        means = {t.metric: {c.head: c.cells[-1] for c in t.columns if c.ours} for t in tables}
        cells = [["setting", "runs", "seeds", *means]]
        for heading, found in runs.items():
            seeds = len({row.seed for row in found})
            figures = [summary_text(cells_of_metric.get(heading)) for cells_of_metric in means.values()]
            cells.append([heading, str(len(found)), str(seeds), *figures])
        (name, *others) = tables[0].lines[: tables[0].mean_line]
        title = f"{dataset}  {f'mean of {len(others) + 1} categories' if others else name}"
        yield title, Grid(cells, "lrr" + "r" * len(means))


def summary_text(cell: Cell | None) -> str:
    """Return a mean with its deviation, `0.9123 ± 0.0045`, and what it lacks: a column has the number of seeds."""
    if cell is None or math.isnan(cell.value):
        return ABSENT if cell is None else str(cell)
    deviation = "" if math.isnan(cell.std) else f" ± {cell.std:.4f}"
    return f"{cell.value:.4f}{deviation}" + (f" ({cell.note})" if cell.note else "")


def verdicts(compared: Sequence[Comparison]) -> list[str]:
    """Return a line for each pair of settings that can be told apart at all, and one for those with too few runs."""
    from anomaly_bench.metrics.significance import ENOUGH

    pairs = [c for c in compared if not c.check]
    few = [c for c in pairs if math.isnan(c.p) and c.pairs < ENOUGH]
    able = [c for c in pairs if c not in few]
    told = [c for c in able if c.distinguishable] if len(able) > MOST_VERDICTS else able
    lines = [
        f"{dataset} {metric}: {c.first} minus {c.second} {c.difference:+.4f}: {c.verdict}"
        for dataset, metric, found in by_metric(told)
        for c in shortened(found)
    ]
    if others := len(able) - len(told):
        lines.append(f"not distinguishable: {others} more comparisons, in the report")
    if few:
        lines.append(f"too few runs: {len(few)} comparisons ({few[0].why})")
    return lines
