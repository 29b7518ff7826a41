"""Mean and standard deviation over seeds: of one category, and of the mean over categories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean, stdev


@dataclass(frozen=True)
class SeedMean:
    """The mean of a metric over seeds, and how far the seeds scatter."""

    value: float = math.nan
    std: float = math.nan  # sample deviation over seeds; nan for a single one, or where categories have different seeds
    seeds: int = 0  # behind the value; 0 where they differ between categories
    note: str = ""  # what the value lacks, or why there is none: "3 of 15 categories"


def mean_over_seeds(values: Sequence[float], note: str = "") -> SeedMean:
    """Return the mean and the sample deviation of one category's values, both nan where one of the values is."""
    defined = len(values) > 1 and not any(map(math.isnan, values))  # stdev fails on nan in some Python versions
    return SeedMean(fmean(values), stdev(values) if defined else math.nan, len(values), note)


def mean_over_categories(categories: Sequence[Mapping[int, Sequence[float]]]) -> SeedMean:
    """Return the mean over the categories that have values, none of them nan; the note says how many lack.

    categories: the values of each by seed, several of a seed where it was run on different files.  The deviation is
    that of the seeds' own means over categories, nan where not every category has the same seeds.
    """
    defined = [seeds for seeds in categories if seeds and not any(map(math.isnan, chain(*seeds.values())))]
    note = "" if defined and len(defined) == len(categories) else f"{len(defined)} of {len(categories)} categories"
    if not defined:
        return SeedMean(note=note)
    value = fmean(fmean(chain(*seeds.values())) for seeds in defined)
    if any(seeds.keys() != defined[0].keys() for seeds in defined):
        return SeedMean(value, note=note)
    means = [fmean(fmean(seeds[seed]) for seeds in defined) for seed in defined[0]]
    return replace(mean_over_seeds(means, note), value=value)
