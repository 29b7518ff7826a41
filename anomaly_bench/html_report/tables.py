"""The rows of the tables: figures, costs, what was published, which are the best, and what settings differ in."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomaly_bench.html_report.charts import Style
from anomaly_bench.html_report.run_data import Run, by_setting, mean_cost
from anomaly_bench.results.aggregate import MAIN, Cell, Table
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.text import ABSENT

Means = tuple[str, list[str], dict[str, list[Cell | None]]]  # metric, data sets, setting -> mean in each data set
COSTS = {
    "train_s": ("training,\u00a0s", "seconds of training"),
    "ms_per_image": ("ms/image", "milliseconds to score an image"),
    "memory_mb": ("memory,\u00a0MB", "highest peak of memory of any stage, in MB"),
    "parameters": ("parameters", "of all networks together"),
}
TOP, BEST = "top", "best"  # marks: the highest figure; distinguishably better than each of the others
ABBREVIATIONS = {word: word.upper() for word in ("auroc", "ap", "f1", "aupro", "pro", "aupimo")} | {"spro": "sPRO"}


@dataclass(frozen=True)
class SettingRow:
    """A setting's results, or what a source published for it."""

    heading: str
    source: str  # of published figures; empty: our own
    style: Style
    cells: list[tuple[Cell | None, str]]  # of each metric, with its mark: "", TOP or BEST
    costs: dict[str, tuple[float, str]]  # likewise; nan where not measured; empty for published figures


def setting_rows(tables: Sequence[Table], runs: Sequence[Run], best: Mapping[str, set[str]]) -> list[SettingRow]:
    """Return the last line of each table as rows: each setting, followed by what was published for it."""
    found: dict[tuple[str, str], dict[str, tuple[Cell | None, str]]] = {}
    settings = by_setting(runs)
    ranked = [heading for heading, group in settings.items() if not group[0].row.baseline]
    for table in tables:
        heading, tops = "", top_of_line(table, -1, ranked)
        for column in table.columns:
            heading = column.head if column.ours else heading
            mark = mark_of(column.head, tops, best.get(table.metric, ())) if column.ours else ""
            key = (heading, "" if column.ours else column.head)
            found.setdefault(key, {})[table.metric] = (column.cells[-1], mark)
    means = {name: {heading: mean_cost(group, name) for heading, group in settings.items()} for name in COSTS}
    least = {name: top_of({h: -float(f"{values[h]:.3g}") for h in ranked}) for name, values in means.items()}
    rows = []
    for heading, source in sorted(found, key=lambda key: ([*settings].index(key[0]), key[1])):
        cells = [found[heading, source].get(table.metric, (None, "")) for table in tables]
        costs = {name: (values[heading], mark_of(heading, least[name])) for name, values in means.items()}
        rows.append(SettingRow(heading, source, settings[heading][0].style, cells, {} if source else costs))
    return rows


def mark_of(heading: str, tops: Collection[str], best: Collection[str] = ()) -> str:
    """Return the mark of a setting's figure."""
    return BEST if heading in best else TOP if heading in tops else ""


def top_of(values: Mapping[str, float]) -> set[str]:
    """Return the names with the highest value; none where all are equal.  values: rounded as they are shown."""
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    highest = max(known.values(), default=math.nan)
    return {name for name, value in known.items() if value == highest} if len({*known.values()}) > 1 else set()


def top_of_line(table: Table, line: int, ranked: Collection[str]) -> set[str]:
    """Return which of the settings in `ranked` have the highest figure in a line of a table."""
    cells = {column.head: column.cells[line] for column in table.columns if column.ours and column.head in ranked}
    return top_of({heading: round(cell.value, 4) for heading, cell in cells.items() if cell})


def settings_side_by_side(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return each entry of configuration, hardware and versions in which settings differ: its name, and the value of
    each setting in the order of `by_setting`; of runs that differ themselves all values."""
    entries = [(heading, [_entries(run) for run in group]) for heading, group in by_setting(runs).items()]
    names = dict.fromkeys(name for _, group in entries for each in group for name in each)
    rows = []
    for name in names:
        values = [", ".join(sorted({each[name] for each in group if name in each})) for _, group in entries]
        if len(set(values)) > 1:
            rows.append((name, [value or ABSENT for value in values]))
    return rows


def _entries(run: Run) -> dict[str, str]:
    manifest = run.manifest
    parts = {key: manifest.get(key) or {} for key in ("hardware", "versions", "parameters")}
    return {**_flat({"method": run.row.config, **parts}), "device": str(manifest.get("device")), "commit": run.commit}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as `method.teacher.steps` -> text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return found


def metric_title(metric: str) -> str:
    """Return a metric's name for people.

    >>> metric_title("image_auroc"), metric_title("aupro_0.3"), metric_title("pixel_f1_max")
    ('image AUROC', 'AUPRO 0.3', 'pixel F1 max')
    """
    return " ".join(ABBREVIATIONS.get(word, word) for word in metric.split("_"))


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


def top_of_column(rows: Mapping[str, Sequence[Cell | None]], column: int, ranked: Collection[str]) -> set[str]:
    """Return which of the settings in `ranked` have the highest figure in a column of `Means`."""
    cells = {heading: cells[column] for heading, cells in rows.items() if heading in ranked}
    return top_of({heading: round(cell.value, 4) for heading, cell in cells.items() if cell})
