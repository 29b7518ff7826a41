"""What the pages show, as data for their templates: the index, the page of a data set, the page of a category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from anomaly_bench.html_report.charts import Style
from anomaly_bench.html_report.run_charts import Charts, cost_charts, curve_charts, score_histograms, training_charts
from anomaly_bench.html_report.run_data import Run, file_name
from anomaly_bench.html_report.tables import (
    SettingRow,
    best_settings,
    means_by_dataset,
    setting_rows,
    settings_side_by_side,
)
from anomaly_bench.results.aggregate import MAIN, Table, baselines_below, summarise
from anomaly_bench.results.collect import Collected
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.decisions import decision_grid
from anomaly_bench.results.grid import Grid
from anomaly_bench.results.oracle import gains_by_dataset
from anomaly_bench.results.remarks import remarks
from anomaly_bench.results.text import CELLS_NOTE
from anomaly_bench.runs.folder import now


@dataclass(frozen=True)
class DatasetResults:
    """The runs of a data set, their tables and comparisons."""

    name: str
    categories: Mapping[str, Sequence[Run]]
    tables: Sequence[Table]
    compared: Sequence[Comparison]
    samples: dict[str, dict[str, str]] = field(default_factory=dict)  # category -> as `gallery.sample` returns

    @property
    def slug(self) -> str:
        """The data set's name as part of a file's name."""
        return file_name(self.name)

    @property
    def file(self) -> str:
        """The files of its tables, beside index.html, without their endings."""
        return f"table_{self.name}"

    @property
    def pages(self) -> dict[str, str]:
        """Category -> the file of its page."""
        return {category: f"{file_name(self.name, category)}.html" for category in self.categories}

    @cached_property
    def runs(self) -> list[Run]:
        """The runs of all categories."""
        return [run for runs in self.categories.values() for run in runs]

    @property
    def main_tables(self) -> list[Table]:
        """The tables of the main metrics; of the first metric where there is none of these."""
        return [table for table in self.tables if table.metric in MAIN] or list(self.tables[:1])

    @cached_property
    def best(self) -> dict[str, set[str]]:
        """Metric -> settings that are distinguishably better than each of the others."""
        baselines = {run.heading for run in self.runs if run.row.baseline}
        return best_settings(self.tables, self.compared, baselines)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """The style of each setting."""
        return {run.heading: run.style for run in self.runs}

    @cached_property
    def ranked(self) -> set[str]:
        """The settings that may have the highest figure: all but baselines."""
        return {run.heading for run in self.runs if not run.row.baseline}

    def side_by_side(self) -> list[tuple[str, list[str]]]:
        """Return what the settings differ in."""
        return settings_side_by_side(self.runs)

    def setting_rows(self, tables: Sequence[Table]) -> list[SettingRow]:
        """Return the rows of a table of settings x metrics."""
        return setting_rows(tables, self.runs, self.best)

    def decisions(self) -> Grid:
        """Return the table of thresholds, means over seeds; only its headings without thresholds."""
        return decision_grid([run.row for run in self.runs])

    def chosen(self) -> Grid | None:
        """Return what choosing on the test images would gain; None where nothing was chosen."""
        return gains_by_dataset([run.row for run in self.runs]).get(self.name)

    def remarks(self) -> list[str]:
        """Return what the figures must be read with."""
        return remarks([run.row for run in self.runs])[self.name]

    @cached_property
    def baselines(self) -> list[Table]:
        """What papers measured of other methods, a table for each metric that has any."""
        return [below for table in self.tables if (below := baselines_below(table))]

    def cost_charts(self) -> Charts:
        """Return the charts of accuracy against cost."""
        return cost_charts(self.tables, self.runs)

    def sources(self) -> list[str]:
        """Where the published figures come from, and whether anybody has checked them."""
        tables = [*self.tables, *self.baselines]
        figures = (figure for table in tables for column in table.columns for figure in column.quoted)
        return list(dict.fromkeys(map(str, figures)))


def index_page(collected: Collected, datasets: Sequence[DatasetResults], notes: Sequence[str]) -> dict[str, Any]:
    """Return what index.html shows, besides `outputs`, the folder below which runs are named."""
    return {
        "collected": collected,
        "runs": [run for dataset in datasets for run in dataset.runs],
        "time": now()[:16].replace("T", " "),
        "datasets": datasets,
        "styles": {heading: style for dataset in datasets for heading, style in dataset.styles.items()},
        "ranked": set().union(*(dataset.ranked for dataset in datasets)),
        "means": means_by_dataset({dataset.name: dataset.tables for dataset in datasets}),
        "notes": notes,
    }


def category_page(dataset: DatasetResults, category: str) -> dict[str, Any]:
    """Return what category.html shows, besides the gallery."""
    runs = dataset.categories[category]
    tables = summarise([run.row for run in runs])
    return {
        "dataset": dataset,
        "category": category,
        "tables": tables,
        "rows": setting_rows(tables, runs, {}),
        "remarks": remarks([run.row for run in runs])[dataset.name],
        "curves": curve_charts(runs),
        "histograms": score_histograms(runs),
        "training": training_charts(runs),
        "styles": dataset.styles,
        "ranked": dataset.ranked,
        "runs": runs,
    }


def protocol_lines(runs: Sequence[Run]) -> list[str]:
    """Return what the runs' manifests say about the protocol; a line that not all settings share names its settings."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for line in run.manifest.get("protocol", []):
            found.setdefault(str(line), set()).add(run.heading)
    every = {run.heading for run in runs}
    lines = [line if names == every else f"{line} ({', '.join(sorted(names))})" for line, names in found.items()]
    return [*lines, *dict.fromkeys(str(run.row.measured) for run in runs), CELLS_NOTE]
