"""The interval of a metric from its bootstrap replicates.

Percentiles of the replicates are far too narrow where images are few or the value is near 1.  On the logit scale it is
Student's t times the deviation of the replicates, times sqrt(n / (n - 1)), which n drawn images lack.  n: of the kind
of images that has fewer, with n - 1 degrees of freedom.  How often it holds the true value: docs/statistics.md.

A value of exactly 0 or 1, and one image of a kind, show no scatter from which an interval could be told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit, stdtrit

from .inputs import Array

ROUNDED = 1e-12  # a value that is nearer to 0 or 1 is that
NEAREST = 0.1  # a replicate counts as no nearer to 0 or 1 than this share of the value's own distance


def bootstrap_interval(value: float, replicates: Array, strata: Sequence[int], level: float) -> tuple[float, float]:
    """Return (low, high) of a value in [0, 1] that has these replicates [B]; nan where there is no telling.

    strata: how many images of each kind; replicates that are nan are left out.  level: of confidence.  Raises
    ValueError for one outside (0, 1).

    >>> low, high = bootstrap_interval(0.9, np.array([0.85, 0.9, 0.93]), (10, 40), level=0.95)
    >>> round(low, 3), round(high, 3)
    (0.797, 0.954)
    """
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is outside (0, 1)")
    defined, n = replicates[~np.isnan(replicates)], min(filter(None, strata), default=0)
    if not ROUNDED < value < 1 - ROUNDED or not len(defined) or n < 2:
        return np.nan, np.nan
    spread = np.std(logit(np.clip(defined, NEAREST * value, 1 - NEAREST * (1 - value)))) * (n / (n - 1)) ** 0.5
    reach = float(stdtrit(n - 1, (1 + level) / 2) * spread)
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def percentile_interval(values: Array, level: float) -> tuple[float, float]:
    """Return the percentiles that leave out the same share of the values on both sides.

    >>> percentile_interval(np.arange(101), level=0.5)
    (25.0, 75.0)
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
