"""Paper versus ours: what was published, what the runs of an experiment gave, and whether the two agree.

A published figure has no deviation of its own, so that of our seeds stands for both: the tolerance is twice our
standard deviation over seeds, and LEAST where that is less or is not known.  Nothing is compared with a mean over fewer
categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from anomaly_bench.results.collect import Row
from anomaly_bench.results.published import TEXTURES, Published, applies, differences, figures
from anomaly_bench.results.seed_means import SeedMean, mean_over_categories, mean_over_seeds

LEAST = 0.01  # a rerun of the published code by others is off by 0.001 at the median of 15 categories, by 0.019 at most
MEANS = ("mean", "mean_textures", "mean_objects")
DatasetCategory = tuple[str, str]  # of a run


@dataclass(frozen=True)
class TableRequest:
    """One setting of an experiment on one data set: what its runs are compared with, and where they are found."""

    experiment: str
    title: str
    method: str
    dataset: str  # as published
    settings: Mapping[str, str]  # data set of the runs -> their `setting`, as in collect.Row
    config: Mapping[str, Any]  # the method's keys as they are run, and the data set's as `dataset.split_file`
    written: Mapping[str, Any]  # the same as the experiment's file has them
    places: Mapping[str, DatasetCategory]  # a published category -> what was run for it
    why: Mapping[DatasetCategory, str]  # why there is no run: `not run: data set missing`
    baselines: Mapping[str, str] = field(default_factory=dict)  # data set of the runs -> the baseline's `setting`


@dataclass(frozen=True)
class Line:
    """A category, or a mean: published or not, run or not."""

    category: str
    published: Published | None
    ours: SeedMean
    baseline: float = math.nan  # without a model, on the same images; nan where it was not run on all of them

    @property
    def tolerance(self) -> float:
        """How far ours may lie from what was published."""
        return LEAST if math.isnan(self.ours.std) else max(LEAST, 2 * self.ours.std)

    @property
    def delta(self) -> float:
        """Ours minus published; nan where one of them is missing or is not the mean of the same categories."""
        if self.published is None or self.ours.note:
            return math.nan
        return round(self.ours.value - self.published.value, 6)

    @property
    def inside(self) -> bool | None:
        """Whether the difference stays within the tolerance; None where nothing is compared."""
        return None if math.isnan(self.delta) else abs(self.delta) <= self.tolerance


@dataclass(frozen=True)
class Versus:
    """One published column and our runs beside it."""

    request: TableRequest
    variant: str
    metric: str
    lines: list[Line]
    differences: list[str]  # between the published setting and the one that is run

    @property
    def name(self) -> str:
        """`mvtec image_auroc: paper WRN50-2 256px`."""
        return f"{self.request.dataset} {self.metric}: {self.variant}"

    @property
    def sources(self) -> list[str]:
        """Where the figures were published, each with its confidence."""
        return list(dict.fromkeys(f"{f.confidence}: {f.source}" for line in self.lines if (f := line.published)))

    def summary(self) -> str:
        """`12 of 15 inside, 3 not compared`."""
        verdicts = [line.inside for line in self.lines if line.published]
        compared = [verdict for verdict in verdicts if verdict is not None]
        return f"{sum(compared)} of {len(compared)} inside, {len(verdicts) - len(compared)} not compared"


def compare_with_published(requests: Sequence[TableRequest], rows: Sequence[Row]) -> list[Versus]:
    """Return a table for each setting, published variant and metric, in the order of `requests` and of published.csv.

    rows: of all finished runs; those of a category count whose setting is the very one that is requested.
    """
    return [table for request in requests for table in _tables(request, rows)]


def _tables(request: TableRequest, rows: Sequence[Row]) -> Iterator[Versus]:
    known = [f for f in figures() if (f.method, f.dataset) == (request.method, request.dataset)]
    meant = [f for f in known if applies(f.setting, request.config)]
    meant = meant or [f for f in known if applies(f.setting, request.written)]
    for variant, metric in dict.fromkeys((f.variant, f.metric) for f in meant):
        column = {f.category: f for f in meant if (f.variant, f.metric) == (variant, metric)}
        different = dict.fromkeys(d for f in column.values() for d in differences(f.setting, request.config))
        runs = {name: _runs(request.settings, rows, place, metric) for name, place in request.places.items()}
        values = {name: {run.seed: [run.metrics[metric]] for run in found} for name, found in runs.items()}
        beside = {name: _baseline(request, rows, place, metric) for name, place in request.places.items()}
        lines = [
            Line(name, column.get(name), _category_mean(request, name, metric, found), beside[name])
            for name, found in runs.items()
        ]
        for mean in (mean for mean in MEANS if mean in column):
            names = [name for name in values if _counts_for(mean, name)]
            ours = mean_over_categories([values[name] for name in names])
            lines.append(Line(mean, column[mean], ours, _mean([beside[name] for name in names])))
        yield Versus(request, variant, metric, lines, list(different))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _baseline(request: TableRequest, rows: Sequence[Row], place: DatasetCategory, metric: str) -> float:
    """Return the baseline's value for one category; nan where it was not run."""
    runs = _runs(request.baselines, rows, place, metric)
    return runs[0].metrics[metric] if runs else math.nan


def _runs(settings: Mapping[str, str], rows: Sequence[Row], place: DatasetCategory, metric: str) -> list[Row]:
    """Return the runs of one category and exactly this setting, one for each seed: `collect` takes no run twice.

    settings: of each data set.
    """
    setting = settings.get(place[0])
    found = [row for row in rows if (row.dataset, row.category) == place and row.setting == setting]
    return [row for row in found if metric in row.metrics]


def _category_mean(request: TableRequest, name: str, metric: str, runs: Sequence[Row]) -> SeedMean:
    values = [run.metrics[metric] for run in runs]
    if not values:
        return SeedMean(note=request.why.get(request.places[name], "not run"))
    if any(map(math.isnan, values)):
        return SeedMean(note="undefined")
    return mean_over_seeds(values, "seeds on different files" if len({run.data for run in runs}) > 1 else "")


def _counts_for(mean: str, category: str) -> bool:
    """Whether a published mean is over this category."""
    return mean == "mean" or (category in TEXTURES) == (mean == "mean_textures")
