"""Rows of runs -> tables of categories x settings: means over seeds and categories, published figures beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anomaly_bench.results.collect import Row
from anomaly_bench.results.labels import setting_labels
from anomaly_bench.results.published import Published, baselines, categories, published
from anomaly_bench.results.seed_means import mean_over_categories, mean_over_seeds

METRICS = (
    *("image_auroc", "image_ap", "image_f1_max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3", "aupro_0.05", "pro_per_image", "aupimo"),
    *("spro_0.05", "spro_0.05_logical_anomalies", "spro_0.05_structural_anomalies"),
)
NAMES = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "aupro": "AUPRO", "aupimo": "AUPIMO", "spro": "AU-sPRO"}
MAIN = ("image_auroc", "pixel_auroc", "aupro_0.3")  # printed; the files hold all
BASELINE = " (baseline)"  # after the name of what is no paper's method, but a floor
FOREIGN = " (foreign maps)"  # after the name of another program's results


@dataclass(frozen=True)
class Cell:
    """One figure of a table."""

    value: float  # nan where undefined
    std: float = math.nan  # sample deviation over seeds; nan for a single one
    runs: int = 0  # seeds behind the value; 0 where they differ between categories, and for published figures
    interval: tuple[float, float] | None = None  # of a single run, over its test images
    note: str = ""  # what the reader must know: "2 of 15 categories", "unverified"
    ours: bool = True  # False: quoted

    def __str__(self) -> str:
        return self.text()

    def text(self, seeds: int = 0, note: str = "") -> str:
        """Return the figure with what belongs to it; the number of seeds and the note only where they are others."""
        text = four(self.value) if self.ours else as_published(self.value)
        if not math.isnan(self.std):
            text += f" ± {self.std:.4f}" + (f" (n={self.runs})" if self.runs != seeds else "")
        if self.interval and not math.isnan(self.value):
            text += " [{:.4f}, {:.4f}]".format(*self.interval)
        return text + (f" ({self.note})" if self.note and self.note != note else "")


@dataclass(frozen=True)
class Column:
    """The results of a setting, or the figures that were published for the setting to the left."""

    head: str
    cells: list[Cell | None]  # one for each line of the table; None where there is nothing
    quoted: tuple[Published, ...] = ()  # the figures behind a published column

    @property
    def ours(self) -> bool:
        """Whether these are results of runs, not published figures."""
        return not self.quoted


@dataclass(frozen=True)
class Table:
    """Categories x settings for one data set and one metric."""

    dataset: str
    metric: str
    lines: list[str]  # the categories, and the mean over them where there is more than one
    columns: list[Column]

    @property
    def mean_line(self) -> int | None:
        """The index of the line of means; None where there is a single category."""
        return len(self.lines) - 1 if len(self.lines) > 1 else None


def four(value: float) -> str:
    """Return a metric to four decimals, or `undefined`."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def metric_name(metric: str) -> str:
    """Return a metric's name for people; `@` names the highest false-positive rate.

    >>> metric_name("image_f1_max"), metric_name("aupro_0.3"), metric_name("spro_0.05_logical_anomalies")
    ('image F1-max', 'AUPRO@0.3', 'AU-sPRO@0.05, logical anomalies')
    """
    level, _, rest = metric.partition("_")
    if level in ("image", "pixel"):
        return f"{level} {NAMES.get(rest, rest.replace('_', ' '))}"
    limit, _, kind = rest.partition("_")
    if level in NAMES:
        return NAMES[level] + (f"@{limit}" if limit else "") + (f", {kind.replace('_', ' ')}" if kind else "")
    return "PRO per image" if metric == "pro_per_image" else metric.replace("_", " ")


def at_most(bound: float) -> str:
    """Return a bound to one digit, rounded up."""
    if not bound or math.isnan(bound):
        return four(bound) if math.isnan(bound) else "0"
    digits = math.floor(math.log10(bound))
    return f"{math.ceil(bound / 10.0**digits)}e{digits}"


def as_published(value: float) -> str:
    """Return a figure with at least three decimals, and no more than were published."""
    return max(f"{value:.3f}", str(value), key=len)


def short(label: str) -> str:
    """Return a setting's label without the word that each of its overrides starts with."""
    return label.replace(" method.", " ")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Return metrics in their usual order, unknown ones last."""
    return sorted(metrics, key=lambda m: (METRICS.index(m) if m in METRICS else len(METRICS), m))


def summarise(rows: Sequence[Row]) -> list[Table]:
    """Return one table for each data set and metric, sorted."""
    datasets = defaultdict(list)
    for row in rows:
        datasets[row.dataset].append(row)
    return [
        _table(dataset, metric, datasets[dataset])
        for dataset in sorted(datasets)
        for metric in in_order({m for row in datasets[dataset] for m in row.metrics})
    ]


def _table(dataset: str, metric: str, rows: Sequence[Row]) -> Table:
    names = sorted({row.category for row in rows})
    lines = [*names, f"mean of {len(names)}"] if len(names) > 1 else names
    columns = []
    for heading, runs in settings(rows).items():
        columns.append(Column(heading, _cells(metric, names, runs)))
        columns += _published_columns(dataset, metric, names, runs)
    return Table(dataset, metric, lines, columns)


def settings(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the runs of each setting, by seed and category, under its heading: its label without `method.`.

    The heading of a baseline and of foreign maps says so.
    """
    labels, runs = setting_labels(rows), defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.seed, row.category)):
        runs[row.setting].append(row)
    found = {setting: runs[setting] for setting in sorted(runs, key=lambda setting: labels[setting])}
    marks = {key: BASELINE * group[0].baseline + FOREIGN * group[0].foreign for key, group in found.items()}
    return {short(labels[key]) + marks[key]: group for key, group in found.items()}


def _cells(metric: str, names: Sequence[str], runs: Sequence[Row]) -> list[Cell | None]:
    """Return a setting's mean over seeds for each category, then the mean over categories."""
    by_category: dict[str, list[Row]] = {name: [] for name in names}
    for run in runs:
        if metric in run.metrics:
            by_category[run.category].append(run)
    cells = [_category_cell(metric, found) for found in by_category.values()]
    return [*cells, _mean_cell(metric, list(by_category.values()))] if len(names) > 1 else cells


def _category_cell(metric: str, runs: Sequence[Row]) -> Cell | None:
    """Return the mean over seeds; of a single run, which does not tell how seeds scatter, with its interval."""
    if not runs:
        return None
    mean = mean_over_seeds([run.metrics[metric] for run in runs])
    bound = max(run.measured.bounds.get(metric, 0) for run in runs)
    low, high = runs[0].measured.intervals.get(metric, (math.nan, math.nan)) if len(runs) == 1 else (math.nan, math.nan)
    interval = None if math.isnan(low) else (low, high)
    note = f"streaming, off by {at_most(bound)} at most" if bound else ""
    return Cell(mean.value, mean.std, mean.seeds, interval, note)


def _mean_cell(metric: str, categories: Sequence[Sequence[Row]]) -> Cell | None:
    """Return the mean over categories from the runs of each; None where none has a run."""
    if not any(categories):
        return None
    mean = mean_over_categories([_by_seed(metric, runs) for runs in categories])
    seeds_differ = not mean.seeds and not math.isnan(mean.value)
    note = ", ".join(filter(None, [mean.note, "seeds differ" if seeds_differ else ""]))
    return Cell(mean.value, mean.std, mean.seeds, note=note)


def _by_seed(metric: str, runs: Sequence[Row]) -> dict[int, list[float]]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        values[run.seed].append(run.metrics[metric])
    return values


def _published_columns(dataset: str, metric: str, names: Sequence[str], runs: Sequence[Row]) -> list[Column]:
    """Return a column for each source that published this metric of this setting, for one of these categories at least.

    Published means over all categories stand only beside our own means over the very same categories.
    """
    run, whole = runs[0], {run.category for run in runs} == set(names) == categories(dataset)
    lines = [*names, "mean"] if len(names) > 1 else names
    found: dict[str, dict[str, Published]] = defaultdict(dict)
    for name in lines:
        if (name != "mean" or whole) and not run.foreign:
            for figure in published(run.method, run.config, dataset, name):
                if figure.metric == metric:
                    found[figure.variant][name] = figure
    return [
        Column(variant, [published_cell(figures.get(name)) for name in lines], tuple(figures.values()))
        for variant, figures in found.items()
    ]


def baselines_below(table: Table) -> Table | None:
    """Return what papers measured of other methods in this table's categories; None where nothing is known."""
    names = table.lines[: table.mean_line]
    means = ["mean"] if set(names) == categories(table.dataset) else []
    return baseline_table(table.dataset, table.metric, [*names, *means])


def baseline_table(dataset: str, metric: str, names: Sequence[str]) -> Table | None:
    """Return the published baselines in these categories and means; None where nothing is known."""
    found = baselines(dataset, metric)
    lines = [name for name in names if any(name in column for column in found.values())]
    columns = []
    for variant, figures in found.items():
        quoted = [figures.get(line) for line in lines]
        columns.append(Column(variant, [published_cell(figure) for figure in quoted], tuple(filter(None, quoted))))
    return Table(dataset, metric, lines, columns) if lines else None


def published_cell(figure: Published | None) -> Cell | None:
    """Return a published figure with its confidence: `0.970 (unverified)`."""
    return Cell(figure.value, note=figure.confidence, ours=False) if figure else None
