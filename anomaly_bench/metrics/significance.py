"""Is one method better than another?  Paired differences over categories and seeds, and what they allow to conclude.

Two questions, in this order.  On these categories, would new trainings differ?  Each pair of runs is an observation.
And on categories like these?  Seeds of a category are no evidence about other categories: a category is one
observation, the mean difference of its seeds, and there must be ENOUGH of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from .bootstrap_interval import percentile_interval
from .inputs import Array

Key = tuple[str, int]  # category, seed
Differences = dict[str, Array]  # first minus second of each category: [its seeds]

ALPHA = 0.05
ENOUGH = 6  # observations: the smallest two-sided p of n signs is 2 / 2**n, 0.0625 for 5 and 0.031 for 6
RESAMPLES = 2000  # bootstrap draws of test images
POWER = 0.8  # of what "could have been told apart" means
SIMULATED = 4000  # experiments
DIGITS = 12  # what differs less differs by rounding


class Tested(NamedTuple):
    """The answer to one of the two questions."""

    low: float  # of the 95 % interval of the mean difference; nan where there are too few pairs for one
    high: float
    p: float  # two-sided, not corrected
    least: float  # the smallest p that this many observations other than 0 can give
    error: float  # standard error of the mean difference; nan where there are too few pairs
    freedom: float  # degrees of freedom behind it
    observations: int  # of the test

    def half_width(self, level: float) -> float:
        """Return half the width of the interval of this confidence."""
        return quantile((1 + level) / 2, self.freedom) * self.error

    def detectable(self, alpha: float = ALPHA) -> float:
        """Return the true difference that test and interval at this level would tell from 0 with a chance of POWER.

        nan where no difference is large enough: with so few observations p cannot be that small.
        """
        return effect_told_apart(self.observations, alpha) * self.error * self.observations**0.5


class Compared(NamedTuple):
    """Two methods, first minus second."""

    pairs: int  # of runs with the same category and seed
    categories: int
    difference: float  # mean over categories of the mean over their seeds
    ahead: float  # share of the pairs in which the first is ahead, ties by half
    here: Tested  # on these categories
    beyond: Tested | None  # on categories like these; None where there are too few


def compare(first: Mapping[Key, float], second: Mapping[Key, float]) -> Compared:
    """Compare two methods on the categories and seeds that both have a defined value for.

    first, second: (category, seed) -> value.  Raises ValueError without a pair.

    >>> one, two = ({("bottle", seed): mean + seed / 100 for seed in range(6)} for mean in (0.9, 0.8))
    >>> compare(one, two).here.p
    0.03125
    """
    differences = paired(first, second)
    if not differences:
        raise ValueError("no category and seed with a value of both")
    pairs = np.concatenate(list(differences.values()))
    means = np.array([round(float(d.mean()), DIGITS) for d in differences.values()])
    ahead = float(np.mean((pairs > 0) + (pairs == 0) / 2))
    beyond = None
    if len(means) >= ENOUGH:
        beyond = tested(means, float(means.mean()), float(means.std(ddof=1)) / len(means) ** 0.5, len(means) - 1)
    here = tested(pairs, float(means.mean()), *within(differences))
    return Compared(len(pairs), len(means), float(means.mean()), ahead, here, beyond)


def tested(observations: Array, mean: float, error: float, freedom: float) -> Tested:
    """Return test and interval of observations [n] whose mean has this standard error."""
    p, least = wilcoxon(observations), min(1.0, 2.0 ** (1 - np.count_nonzero(observations)))
    if len(observations) < ENOUGH:
        return Tested(np.nan, np.nan, p, least, np.nan, np.nan, len(observations))
    half = quantile(1 - ALPHA / 2, freedom) * error
    return Tested(mean - half, mean + half, p, least, error, freedom, len(observations))


def within(differences: Differences) -> tuple[float, float]:
    """Return the standard error of the mean over these categories, and its degrees of freedom.

    Of the seeds' scatter inside the categories, which is taken to be the same in all; where that has fewer than
    ENOUGH - 1 degrees of freedom, of the scatter of all pairs, which is no less.
    """
    groups = list(differences.values())
    pairs, share = np.concatenate(groups), sum(1 / len(d) for d in groups) / len(groups) ** 2
    freedom = len(pairs) - len(groups)
    if freedom < ENOUGH - 1:
        return (float(pairs.var(ddof=1) * share) ** 0.5 if len(pairs) > 1 else np.nan), len(pairs) - 1
    return float(sum(((d - d.mean()) ** 2).sum() for d in groups) / freedom * share) ** 0.5, freedom


@cache
def effect_told_apart(n: int, alpha: float) -> float:
    """Return how many standard deviations from 0 the mean of n normal observations must lie to be told apart.

    With a chance of POWER by Wilcoxon's test at this level and Student's interval; from a simulation with a fixed seed,
    of at most 60 observations, scaled by 1 / sqrt(n) for more.
    """
    if n > 60:
        return effect_told_apart(60, alpha) * (60 / n) ** 0.5
    if n < ENOUGH or 2.0 ** (1 - n) >= alpha:
        return float("nan")
    noise = np.random.Generator(np.random.PCG64(0)).normal(size=(SIMULATED, n))
    chance = rank_sums(np.arange(1, n + 1))
    enough = int(np.searchsorted(np.cumsum(chance[::-1]), alpha / 2))  # so many rank sums from the largest on are rare
    half = quantile(1 - ALPHA / 2, n - 1) / n**0.5

    def power(effect: float) -> float:
        x = noise + effect
        ranks = np.argsort(np.argsort(np.abs(x), axis=1), axis=1) + 1
        rare = (ranks * (x > 0)).sum(1) > len(chance) - 1 - enough
        return float((rare & (x.mean(1) > half * x.std(1, ddof=1))).mean())

    low, high = 0.0, 20.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def quantile(p: float, freedom: float) -> float:
    """Return Student's t."""
    return float(stdtrit(freedom, p))


def paired(first: Mapping[Key, float], second: Mapping[Key, float]) -> Differences:
    """Return first minus second for each (category, seed) that both have; values that are nan count as missing."""
    found: dict[str, list[float]] = {}
    for category, seed in sorted(first.keys() & second.keys()):
        difference = first[category, seed] - second[category, seed]
        if not np.isnan(difference):
            found.setdefault(category, []).append(round(difference, DIGITS))
    return {category: np.array(values) for category, values in found.items()}


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
    far = abs(2 * positive - total)
    return float(min(1.0, rank_sums(ranks)[np.abs(2 * np.arange(total + 1) - total) >= far].sum()))


def rank_sums(ranks: Array) -> Array:
    """Return how likely each sum of some of the ranks is, from 0 on, if each counts with a chance of one half."""
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for rank in ranks:
        chance[rank:] = chance[rank:] / 2 + chance[:-rank] / 2  # the right side is read before it is written
        chance[:rank] /= 2
    return chance


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
