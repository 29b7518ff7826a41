"""The rows of the tables of results: means over seeds, published figures, costs, and which setting is the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from anomaly_bench.html_report.charts import Style
from anomaly_bench.html_report.run_data import Run, by_setting, mean_cost
from anomaly_bench.results.aggregate import MAIN, Cell, Table
from anomaly_bench.results.comparisons import Comparison

Means = tuple[str, list[str], dict[str, list[Cell | None]]]  # metric, data sets, setting -> mean in each data set
COSTS = {
    "train_s": ("training,\u00a0s", "seconds of training"),
    "ms_per_image": ("ms/image", "milliseconds to score an image"),
    "memory_mb": ("memory,\u00a0MB", "highest peak of memory of any stage, in MB"),
    "parameters": ("parameters", "of all networks together"),
}


@dataclass(frozen=True)
class SettingRow:
    """A setting's results, or what a source published for it."""

    heading: str
    source: str  # of published figures; empty: our own
    style: Style
    cells: list[tuple[Cell | None, bool]]  # of each metric, and whether it is marked as the best
    costs: dict[str, float]  # nan where not measured; empty for published figures


def setting_rows(tables: Sequence[Table], runs: Sequence[Run], best: Mapping[str, set[str]]) -> list[SettingRow]:
    """Return the last line of each table as rows: each setting, followed by what was published for it."""
    found: dict[tuple[str, str], dict[str, tuple[Cell | None, bool]]] = {}
    for table in tables:
        heading = ""
        for column in table.columns:
            heading = column.head if column.ours else heading
            marked = column.ours and column.head in best.get(table.metric, ())
            key = (heading, "" if column.ours else column.head)
            found.setdefault(key, {})[table.metric] = (column.cells[-1], marked)
    settings = by_setting(runs)
    rows = []
    for heading, source in sorted(found, key=lambda key: ([*settings].index(key[0]), key[1])):
        cells = [found[heading, source].get(table.metric, (None, False)) for table in tables]
        costs = {} if source else {name: mean_cost(settings[heading], name) for name in COSTS}
        rows.append(SettingRow(heading, source, settings[heading][0].style, cells, costs))
    return rows


def short_number(value: float) -> str:
    """Return a text of three digits, more for large values."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def best_settings(
    tables: Sequence[Table], compared: Sequence[Comparison], baselines: Collection[str] = ()
) -> dict[str, set[str]]:
    """Return for each metric the setting that is distinguishably better than each of the others, if there is one.

    baselines: headings of settings that are never the best.
    """
    found = {}
    for table in tables:
        headings = {column.head for column in table.columns if column.ours and column.cells[-1]}
        beaten: dict[str, set[str]] = {heading: set() for heading in headings}
        for c in compared:
            if c.metric == table.metric and c.distinguishable and not c.check:
                better, worse = (c.first, c.second) if c.difference > 0 else (c.second, c.first)
                beaten.setdefault(better, set()).add(worse)
        found[table.metric] = {h for h in headings - {*baselines} if len(headings) > 1 and beaten[h] >= headings - {h}}
    return found


def means_by_dataset(tables: Mapping[str, Sequence[Table]]) -> list[Means]:
    """Return the means over categories of each main metric that was measured."""
    found = []
    for metric in MAIN:
        measured = {dataset: table for dataset, group in tables.items() for table in group if table.metric == metric}
        cells = {(c.head, dataset): c.cells[-1] for dataset, table in measured.items() for c in table.columns if c.ours}
        settings = sorted({setting for setting, _ in cells})
        rows = {setting: [cells.get((setting, dataset)) for dataset in measured] for setting in settings}
        if rows:
            found.append((metric, list(measured), rows))
    return found
