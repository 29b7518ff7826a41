"""Paper versus ours: what was published, what the runs of an experiment gave, and whether the two agree.

A verdict says whether a published figure lies where one more run of ours would: within the prediction interval
t(n - 1, 0.975) s sqrt(1 + 1 / n) of our n seeds with deviation s, and half a digit of the figure.  An identical method
lies outside in one of twenty cases.  Where the figure is known to be a mean over m seeds with deviation p, the interval
is that of a difference of means, t sqrt(s^2 / n + p^2 / m), with Welch's degrees of freedom.  There is no verdict, only
the difference, where fewer than three seeds were run, and where the two are not of the same thing: another setting,
stand-ins, a part of the data set, a published figure that was not checked against its source.  Nothing is compared with
a mean over fewer categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf
from scipy.special import stdtrit

from anomaly_bench.config import conf_dir
from anomaly_bench.results.collect import Row
from anomaly_bench.results.published import TEXTURES, Published, applies, differences, figures
from anomaly_bench.results.seed_means import SeedMean, mean_over_categories, mean_over_seeds

LEVEL = 0.95  # of the prediction interval
ROUNDING = 0.0005  # of a figure that was published with three digits
ENOUGH = 3  # seeds: with two the interval is 15 deviations wide
OTHER = "other setting"  # why there is no verdict
CHECKED = ("seen", "secondary")  # confidence of figures that a verdict is given on
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
    stand_in: bool = False  # what is run stands for something else: no verdicts


@dataclass(frozen=True)
class Line:
    """A category, or a mean: published or not, run or not."""

    category: str
    published: Published | None
    ours: SeedMean
    baseline: float = math.nan  # without a model, on the same images; nan where it was not run on all of them
    withheld: str = ""  # why there is no verdict although there is a difference

    @property
    def tolerance(self) -> float:
        """How far a published figure may lie from ours; nan where too few seeds were run."""
        n, s = self.ours.seeds, self.ours.std
        if n < ENOUGH or math.isnan(s):
            return math.nan
        p, m = (self.published.std, self.published.seeds) if self.published else (None, None)
        if p is None or not m or m < 2:
            return float(stdtrit(n - 1, (1 + LEVEL) / 2)) * s * math.sqrt(1 + 1 / n)
        a, b = s**2 / n, p**2 / m  # the two means' variances
        freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)) if a + b else n + m - 2
        return float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(a + b)

    @property
    def delta(self) -> float:
        """Ours minus published; nan where one of them is missing or is not the mean of the same categories."""
        if self.published is None or self.ours.note:
            return math.nan
        return round(self.ours.value - self.published.value, 6)

    @property
    def inside(self) -> bool | None:
        """Whether the difference stays within the tolerance; None where there is no verdict."""
        unknown = math.isnan(self.delta) or math.isnan(self.tolerance) or self.withheld
        return None if unknown else abs(self.delta) <= self.tolerance + ROUNDING

    @property
    def verdict(self) -> str:
        """`inside`, `outside`, or why neither can be said; empty where nothing is compared."""
        if math.isnan(self.delta):
            return ""
        if self.inside is None:
            return self.withheld or "too few seeds to tell"
        return "inside" if self.inside else "outside"


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
        """Where the figures were published, each with its confidence and of which epoch it is."""
        return list(dict.fromkeys(f"{f.confidence}: {f.origin}" for line in self.lines if (f := line.published)))

    def summary(self) -> str:
        """`12 of 15 inside, 3 without a verdict`."""
        verdicts = [line.inside for line in self.lines if line.published]
        compared = [verdict for verdict in verdicts if verdict is not None]
        return f"{sum(compared)} of {len(compared)} inside, {len(verdicts) - len(compared)} without a verdict"


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
        different = list(dict.fromkeys(d for f in column.values() for d in differences(f.setting, request.config)))
        runs = {name: _runs(request.settings, rows, place, metric) for name, place in request.places.items()}
        floors = {name: _baseline(request, rows, place, metric) for name, place in request.places.items()}
        lines = _lines(request, column, runs, floors, bool(different))
        yield Versus(request, variant, metric, list(lines), different)


def _lines(
    request: TableRequest,
    column: Mapping[str, Published],
    runs: Mapping[str, Sequence[Row]],
    floors: Mapping[str, float],
    different: bool,
) -> Iterator[Line]:
    """Yield a line for each category and published mean.  runs, floors: of each category."""
    metric = next(iter(column.values())).metric
    parts = {name for name, place in request.places.items() if is_part(place, runs[name])}
    for name, found in runs.items():
        why = _withheld(request, column.get(name), different, name in parts)
        yield Line(name, column.get(name), _category_mean(request, name, metric, found), floors[name], why)
    values = {name: {run.seed: [run.metrics[metric]] for run in found} for name, found in runs.items()}
    for mean in (mean for mean in MEANS if mean in column):
        names = [name for name in values if _counts_for(mean, name)]
        ours = mean_over_categories([values[name] for name in names])
        why = _withheld(request, column[mean], different, not parts.isdisjoint(names))
        yield Line(mean, column[mean], ours, _mean([floors[name] for name in names]), why)


def _withheld(request: TableRequest, figure: Published | None, different: bool, part: bool) -> str:
    """Return why no verdict is given on a figure, or an empty text."""
    if request.stand_in:
        return "stand-ins"
    if different:
        return OTHER
    if part:
        return "part of the data set"
    return figure.confidence if figure and figure.confidence not in CHECKED else ""


def is_part(place: DatasetCategory, runs: Sequence[Row]) -> bool:
    """Return whether a run had fewer images than the published data set has."""
    expected = published_images(*place)
    return any(0 < sum(run.images.values()) < expected for run in runs)


@cache
def published_images(dataset: str, category: str) -> int:
    """Return how many images runs on a category have, training and test together; 0 where that is not known."""
    file = conf_dir() / "download" / f"{dataset}.yaml"
    if not file.is_file():
        return 0
    counts: Any = OmegaConf.to_container(OmegaConf.load(file))["counts"]  # type: ignore[index, call-overload]
    if category not in counts:  # one category of several folders, as MTD has them
        return sum(sum(each.values()) for each in counts.values())
    if "test" in counts[category]:  # one class normal: the test images of all classes
        return counts[category]["train"] + sum(each["test"] for each in counts.values())
    return sum(counts[category].values())


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
