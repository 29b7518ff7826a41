"""Rows of runs -> tables of categories x settings: means over seeds and categories, published figures beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from anomaly_bench.results.collect import Row
from anomaly_bench.results.published import Published, categories, published

METRICS = (
    *("image_auroc", "image_ap", "image_f1_max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3", "aupro_0.05", "pro_per_image", "aupimo"),
)
MAIN = ("image_auroc", "pixel_auroc", "aupro_0.3")  # printed; the files hold all


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
        text = four(self.value) if self.ours else as_published(self.value)
        if not math.isnan(self.std):
            text += f" ± {self.std:.4f} (n={self.runs})"
        if self.interval and not math.isnan(self.value):
            text += " [{:.4f}, {:.4f}]".format(*self.interval)
        return text + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Column:
    """A setting's results, or published figures for the setting to the left."""

    head: str
    cells: list[Cell | None]  # one for each line of the table; None where there is nothing
    quoted: tuple[Published, ...] = ()  # the figures behind a published column

    @property
    def ours(self) -> bool:
        return not self.quoted


@dataclass(frozen=True)
class Table:
    """Categories x settings for one data set and one metric."""

    dataset: str
    metric: str
    lines: list[str]  # the categories, and the mean over them where there is more than one
    columns: list[Column]


def four(value: float) -> str:
    """A metric to four decimals."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def at_most(bound: float) -> str:
    """A bound to one digit, rounded up."""
    if not bound or math.isnan(bound):
        return four(bound) if math.isnan(bound) else "0"
    digits = math.floor(math.log10(bound))
    return f"{math.ceil(bound / 10.0**digits)}e{digits}"


def as_published(value: float) -> str:
    """At least three decimals, and no more than were published."""
    return max(f"{value:.3f}", str(value), key=len)


def short(label: str) -> str:
    """A setting's label without the word that each of its overrides starts with."""
    return label.replace(" method.", " ")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in their usual order, unknown ones last."""
    return sorted(metrics, key=lambda m: (METRICS.index(m) if m in METRICS else len(METRICS), m))


def summarise(rows: Sequence[Row]) -> list[Table]:
    """One table for each data set and metric, sorted."""
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
    for head, runs in settings(rows).items():
        columns.append(Column(head, _ours(metric, names, runs)))
        columns += _published(dataset, metric, names, runs)
    return Table(dataset, metric, lines, columns)


def settings(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Heading -> runs of a setting.  Runs of one setting belong together however they were asked for, under the
    shortest of their labels.  Equal labels of different settings (a default has changed) get digits."""
    runs = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.seed, row.category)):
        runs[row.setting].append(row)
    labels = {
        setting: min((r.label for r in own), key=lambda label: (len(label), label)) for setting, own in runs.items()
    }
    shown = list(labels.values())
    heads = {k: short(v) + (f" #{k}" if shown.count(v) > 1 else "") for k, v in labels.items()}
    return {heads[k]: runs[k] for k in sorted(runs, key=lambda k: (labels[k], k))}


def _ours(metric: str, names: Sequence[str], runs: Sequence[Row]) -> list[Cell | None]:
    """Mean over seeds for each category, then the mean over categories."""
    values: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in names}
    measured = [run for run in runs if metric in run.metrics]
    for run in measured:
        values[run.category][run.seed].append(run.metrics[metric])
    cells = [_over(metric, [run for run in measured if run.category == name]) for name in names]
    return [*cells, _mean(names, values, cells)] if len(names) > 1 else cells


def _over(metric: str, runs: Sequence[Row]) -> Cell | None:
    """Of one category; an interval where there is one run only, for it does not tell how seeds scatter."""
    if not runs:
        return None
    values, bound = [run.metrics[metric] for run in runs], max(run.measured.bounds.get(metric, 0) for run in runs)
    interval = runs[0].measured.intervals.get(metric) if len(runs) == 1 else None
    note = f"streaming, off by {at_most(bound)} at most" if bound else ""
    return Cell(fmean(values), _deviation(values), len(values), interval, note)


def _deviation(values: Sequence[float]) -> float:
    defined = len(values) > 1 and not any(math.isnan(v) for v in values)  # stdev fails on nan in some Python versions
    return stdev(values) if defined else math.nan


def _mean(names: Sequence[str], values: dict[str, dict[int, list[float]]], cells: Sequence[Cell | None]) -> Cell | None:
    """Mean over the categories with a defined value.  Its deviation is that of the seeds' own means over categories,
    left out where not every category has the same seeds."""
    if not any(cells):
        return None
    defined = {name: cell.value for name, cell in zip(names, cells, strict=True) if cell and not math.isnan(cell.value)}
    notes = [f"{len(defined)} of {len(names)} categories"] if len(defined) < len(names) else []
    if not defined:
        return Cell(math.nan, note=notes[0])
    seeds = {tuple(sorted(values[name])) for name in defined}
    if len(seeds) > 1:
        return Cell(fmean(defined.values()), note=", ".join([*notes, "seeds differ"]))
    means = [fmean(fmean(values[name][seed]) for name in defined) for seed in seeds.pop()]
    return Cell(fmean(defined.values()), _deviation(means), len(means), note=", ".join(notes))


def _published(dataset: str, metric: str, names: Sequence[str], runs: Sequence[Row]) -> list[Column]:
    """A column for each source that published this metric of this setting, for one of these categories at least.

    Published means over all categories stand only beside our own means over the very same categories.
    """
    run, whole = runs[0], {run.category for run in runs} == set(names) == categories(dataset)
    asked = [*names, "mean"] if len(names) > 1 else names
    found: dict[str, dict[str, Published]] = defaultdict(dict)
    for name in asked:
        if name != "mean" or whole:
            for figure in published(run.method, run.config, dataset, name):
                if figure.metric == metric:
                    found[figure.variant][name] = figure
    return [Column(v, [_quote(by.get(name)) for name in asked], tuple(by.values())) for v, by in found.items()]


def _quote(figure: Published | None) -> Cell | None:
    return Cell(figure.value, note=figure.confidence, ours=False) if figure else None
