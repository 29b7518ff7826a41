"""Paper versus ours: what was published, what the runs of an experiment gave, and whether the two agree.

A published figure has no deviation of its own, so that of our seeds stands for both: the tolerance is twice our
standard deviation over seeds, and LEAST where that is less or is not known.  Nothing is compared with a mean over fewer
categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from anomaly_bench.results.collect import Row
from anomaly_bench.results.published import TEXTURES, Published, applies, differences, figures

LEAST = 0.01  # a rerun of the published code by others is off by 0.001 at the median of 15 categories, by 0.019 at most
MEANS = ("mean", "mean_textures", "mean_objects")
Place = tuple[str, str]  # data set and category of a run


@dataclass(frozen=True)
class Asked:
    """One setting of an experiment on one data set: what its runs are compared with, and where they are found."""

    experiment: str
    title: str
    method: str
    dataset: str  # as published
    settings: Mapping[str, str]  # data set of the runs -> their `setting`, as in collect.Row
    config: Mapping[str, Any]  # the method's keys as they are run, and the data set's as `dataset.split_file`
    written: Mapping[str, Any]  # the same as the experiment's file has them
    places: Mapping[str, Place]  # a published category -> what was run for it
    why: Mapping[Place, str]  # why there is no run: `not run: data set missing`


@dataclass(frozen=True)
class Ours:
    """Mean over seeds, of a category or of the mean over categories."""

    value: float = math.nan
    std: float = math.nan  # sample deviation over seeds; nan for a single one, or where categories have different seeds
    seeds: int = 0  # 0 where they differ between categories
    note: str = ""  # why there is no value, or what it lacks: "3 of 15 categories"

    @property
    def tolerance(self) -> float:
        return LEAST if math.isnan(self.std) else max(LEAST, 2 * self.std)


@dataclass(frozen=True)
class Line:
    """A category, or a mean: published or not, run or not."""

    category: str
    published: Published | None
    ours: Ours

    @property
    def delta(self) -> float:
        """Ours minus published; nan where one of them is missing or is not the mean of the same categories."""
        whole = self.published and not self.ours.note
        return round(self.ours.value - self.published.value, 6) if whole and self.published else math.nan

    @property
    def inside(self) -> bool | None:
        """Does the difference stay within the tolerance?  None where nothing is compared."""
        return None if math.isnan(self.delta) else abs(self.delta) <= self.ours.tolerance


@dataclass(frozen=True)
class Versus:
    """One published column and our runs beside it."""

    asked: Asked
    variant: str
    metric: str
    lines: list[Line]
    differences: list[str]  # between the published setting and the one that is run

    @property
    def name(self) -> str:
        return f"{self.asked.dataset} {self.metric}: {self.variant}"

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(f"{f.confidence}: {f.source}" for line in self.lines if (f := line.published)))

    def summary(self) -> str:
        """`12 of 15 compared cells inside, 3 not compared`."""
        verdicts = [line.inside for line in self.lines if line.published]
        compared = [v for v in verdicts if v is not None]
        return f"{sum(compared)} of {len(compared)} inside, {len(verdicts) - len(compared)} not compared"


def compare(asked: Sequence[Asked], rows: Sequence[Row]) -> list[Versus]:
    """A table for each setting, published variant and metric, in the order of `asked` and of published.csv.

    rows: of all finished runs; those of a category count whose setting is the very one that is asked for.
    """
    return [table for each in asked for table in _tables(each, rows)]


def _tables(asked: Asked, rows: Sequence[Row]) -> Iterator[Versus]:
    known = [f for f in figures() if (f.method, f.dataset) == (asked.method, asked.dataset)]
    meant = [f for f in known if applies(f.setting, asked.config)] or [
        f for f in known if applies(f.setting, asked.written)
    ]
    for variant, metric in dict.fromkeys((f.variant, f.metric) for f in meant):
        column = {f.category: f for f in meant if (f.variant, f.metric) == (variant, metric)}
        differ = list(dict.fromkeys(d for f in column.values() for d in differences(f.setting, asked.config)))
        runs = {name: _runs(asked, rows, place, metric) for name, place in asked.places.items()}
        values = {name: {run.seed: run.metrics[metric] for run in found} for name, found in runs.items()}
        lines = [Line(name, column.get(name), _category(asked, name, metric, runs[name])) for name in asked.places]
        lines += [Line(name, column[name], _mean(_part(name, values))) for name in MEANS if name in column]
        yield Versus(asked, variant, metric, lines, differ)


def _runs(asked: Asked, rows: Sequence[Row], place: Place, metric: str) -> list[Row]:
    """Of one place and exactly this setting, one for each seed: `collect` takes the same run only once."""
    setting = asked.settings.get(place[0])
    found = [row for row in rows if (row.dataset, row.category) == place and row.setting == setting]
    return [row for row in found if metric in row.metrics]


def _category(asked: Asked, name: str, metric: str, runs: Sequence[Row]) -> Ours:
    values = [run.metrics[metric] for run in runs]
    if not values:
        return Ours(note=asked.why.get(asked.places[name], "not run"))
    if any(math.isnan(value) for value in values):
        return Ours(note="undefined")
    note = "seeds on different files" if len({run.data for run in runs}) > 1 else ""
    return Ours(fmean(values), _deviation(values), len(values), note)


def _part(mean: str, values: Mapping[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """The categories that a published mean is over."""
    kinds = {"mean": set(values), "mean_textures": TEXTURES, "mean_objects": set(values) - TEXTURES}
    return {name: seeds for name, seeds in values.items() if name in kinds[mean]}


def _mean(values: Mapping[str, dict[int, float]]) -> Ours:
    """Mean over categories; its deviation is that of the seeds' own means, where every category has the same seeds."""
    there = {n: v for n, v in values.items() if v and not any(math.isnan(x) for x in v.values())}
    if not there:
        return Ours(note=f"0 of {len(values)} categories")
    value, note = fmean(fmean(v.values()) for v in there.values()), ""
    if len(there) < len(values):
        note = f"{len(there)} of {len(values)} categories"
    first = next(iter(there.values()))
    if any(v.keys() != first.keys() for v in there.values()):
        return Ours(value, note=note)
    return Ours(value, _deviation([fmean(v[seed] for v in there.values()) for seed in first]), len(first), note)


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else math.nan
