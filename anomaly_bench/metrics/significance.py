"""Is one method better than another?  Paired differences over categories and seeds, and what they allow to conclude.

Seeds of a category are no further evidence about other categories.  With ENOUGH categories a category is one
observation, the mean difference of its seeds, and the answer is about categories like these.  With fewer, no test over
categories can ever come out below 0.05: each pair of runs is an observation then, and the answer holds for these
categories only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import percentile_interval
from .inputs import Array

Key = tuple[str, int]  # category, seed
Differences = dict[str, Array]  # first minus second of each category: [its seeds]

ALPHA = 0.05
ENOUGH = 6  # observations: the smallest two-sided p of n signs is 2 / 2**n, 0.0625 for 5 and 0.031 for 6
RESAMPLES = 2000  # bootstrap draws
DIGITS = 12  # what differs less differs by rounding


class Compared(NamedTuple):
    """Two methods, first minus second."""

    pairs: int  # of runs with the same category and seed
    categories: int
    difference: float  # mean over categories of the mean over their seeds
    low: float  # of the 95 % interval; nan where there are too few pairs for one
    high: float
    p: float  # two-sided, not corrected
    least: float  # the smallest p that this many observations other than 0 can give


def compare(
    first: Mapping[Key, float], second: Mapping[Key, float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Compared:
    """Compare two methods on the categories and seeds that both have a defined value for.

    first, second: (category, seed) -> value.  resamples, seed: of the bootstrap.  Raises ValueError without a pair.

    >>> one, two = ({("bottle", seed): mean + seed / 100 for seed in range(6)} for mean in (0.9, 0.8))
    >>> compare(one, two).p
    0.03125
    """
    differences = paired(first, second)
    if not differences:
        raise ValueError("no category and seed with a value of both")
    units, pairs = observations(differences), sum(map(len, differences.values()))
    low, high = interval(differences, resamples=resamples, seed=seed) if pairs >= ENOUGH else (np.nan, np.nan)
    mean = float(np.mean([d.mean() for d in differences.values()]))
    least = min(1.0, 2.0 ** (1 - np.count_nonzero(units)))
    return Compared(pairs, len(differences), mean, low, high, wilcoxon(units), least)


def paired(first: Mapping[Key, float], second: Mapping[Key, float]) -> Differences:
    """Return first minus second for each (category, seed) that both have; values that are nan count as missing."""
    found: dict[str, list[float]] = {}
    for category, seed in sorted(first.keys() & second.keys()):
        difference = first[category, seed] - second[category, seed]
        if not np.isnan(difference):
            found.setdefault(category, []).append(round(difference, DIGITS))
    return {category: np.array(values) for category, values in found.items()}


def observations(differences: Differences) -> Array:
    """Return [n] what a test may count: the categories' means where there are ENOUGH, else every pair of runs."""
    if len(differences) >= ENOUGH:
        return np.array([round(float(d.mean()), DIGITS) for d in differences.values()])
    return np.concatenate(list(differences.values()))


def wilcoxon(differences: Array) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (1945) for differences [n]: exact for every n, with ties.

    Differences of 0 have no direction and are left out; equal sizes share their mean rank.  All 2^n signs are equally
    likely if the methods are equal: p is the share of them whose rank sum is at least as far from its middle.
    1 where no difference is left.

    >>> wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    0.03125
    """
    differences = differences[differences != 0]
    _, at, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(counts) - counts + 1)[at]  # doubled, so that mean ranks are whole numbers
    total, positive = int(ranks.sum()), int(ranks[differences > 0].sum())
    chance = np.zeros(total + 1)  # of each rank sum
    chance[0] = 1.0
    for rank in ranks:
        chance[rank:] = chance[rank:] / 2 + chance[:-rank] / 2  # the right side is read before it is written
        chance[:rank] /= 2
    far = abs(2 * positive - total)
    return float(min(1.0, chance[np.abs(2 * np.arange(total + 1) - total) >= far].sum()))


def interval(
    differences: Differences, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the bootstrap interval of the mean difference: categories are drawn, then seeds inside each of them.

    seed: the same one gives the same interval.  Drawing on both levels counts the scatter of seeds twice where a
    category has several: the interval is somewhat wide rather than somewhat narrow.
    """
    random = np.random.Generator(np.random.PCG64([seed, len(differences)]))
    groups, sizes = list(differences.values()), np.array([len(d) for d in differences.values()])
    table = np.array([np.pad(d, (0, sizes.max() - len(d))) for d in groups])  # [C, S]
    drawn = random.integers(0, len(groups), (resamples, len(groups)))
    inside = (random.random((*drawn.shape, sizes.max())) * sizes[drawn][..., None]).astype(np.int64)
    taken = np.arange(sizes.max()) < sizes[drawn][..., None]
    means = (table[drawn[..., None], inside] * taken).sum(axis=2) / sizes[drawn]
    return percentile_interval(means.mean(axis=1), level)


def image_interval(first: Array, second: Array, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of one category, where the test images are drawn as well: the same ones for all runs.

    first, second: a metric's `image_replicates` [S, resamples] of each seed, in pairs.  With one seed the interval is
    about these two trained models, not about other trainings.
    """
    random = np.random.Generator(np.random.PCG64([seed, 0]))
    inside = np.asarray(random.integers(0, len(first), first.shape))
    return percentile_interval(np.take_along_axis(first - second, inside, axis=0).mean(axis=0), level)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's corrected p (1979) of a family of tests, in the same order.

    The k-th smallest of m is taken m - k + 1 times, and none comes out below that of a smaller one.

    >>> holm([0.01, 0.04, 0.5])
    [0.03, 0.08, 0.5]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for k, i in enumerate(np.argsort(np.asarray(p, float), kind="stable")):
        highest = max(highest, min(1.0, (len(p) - k) * p[i]))
        corrected[i] = highest
    return corrected
