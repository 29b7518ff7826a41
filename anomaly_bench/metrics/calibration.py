"""A threshold with a promise, from the scores of normal images that no training has seen.

Let the scores of normal images be independent draws from one continuous law, those of n calibration images as well as
those to come.  The share of normal images above the (r + 1)-th largest calibration score is then Beta(r + 1, n - r)
distributed (order statistics; Wilks 1941; Vovk 2012, "Conditional validity of inductive conformal predictors").  r is
fixed before the scores are seen.  With ties the share is smaller, so that the promise still holds.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv


class Threshold(NamedTuple):
    """A threshold and what it promises: an image is anomalous if its score is larger."""

    threshold: float
    n: int  # calibration images
    r: int  # of them above the threshold, where no two scores are equal
    rate: float  # of false alarms, as requested
    confidence: float  # with which `promised` holds
    promised: float  # at most this share of normal images is above the threshold


def promised_rate(n: int, r: int, confidence: float) -> float:
    """Return the share of normal images that lie above the (r + 1)-th largest of n scores at most, with confidence.

    It is the quantile `confidence` of Beta(r + 1, n - r).

    >>> round(promised_rate(59, 0, 0.95), 4), round(promised_rate(32, 0, 0.95), 3)
    (0.0495, 0.089)
    """
    return float(betaincinv(r + 1, n - r, confidence))


def rank_for(n: int, rate: float, confidence: float) -> int:
    """Return the largest r whose `promised_rate` is at most `rate`; 0 where there is none, as with too few images.

    >>> rank_for(59, 0.05, 0.95), rank_for(93, 0.05, 0.95), rank_for(32, 0.05, 0.95)
    (0, 1, 0)
    """
    fitting = bisect_right(range(n), rate, key=lambda r: promised_rate(n, r, confidence))  # it grows with r
    return max(fitting - 1, 0)


def normals_needed(rate: float, confidence: float) -> int:
    """Return the number of calibration images from which on `rate` can be promised.

    >>> [normals_needed(rate, 0.95) for rate in (0.1, 0.05, 0.02, 0.01, 0.001)]
    [29, 59, 149, 299, 2995]
    """
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))


def calibrate(scores: np.ndarray, rate: float, confidence: float) -> Threshold:
    """Return the threshold that keeps false alarms at `rate` with `confidence`; with too few scores the largest one.

    scores: [n] of normal images that took no part in the training.  rate, confidence: in (0, 1).  Raises ValueError
    without a score and for one that is not finite.

    >>> calibrate(np.arange(100.0), 0.05, 0.95)[:3]
    (98.0, 100, 1)
    """
    n = len(scores)
    if not n or not np.isfinite(scores).all():
        raise ValueError(f"{n} calibration scores; at least one is needed, and all must be finite")
    r = rank_for(n, rate, confidence)
    threshold = float(np.sort(scores)[n - 1 - r])
    return Threshold(threshold, n, r, rate, confidence, promised_rate(n, r, confidence))


def p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the conformal p-value of each score: (1 + how many calibration scores are as high or higher) / (n + 1).

    For a normal image P(p <= a) <= a on average over calibration sets; given one of them, the share of normal images
    with p <= a can be larger than a.  calibration: [n] of normal images.  scores: [m].

    >>> p_values(np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 9.0])).tolist()
    [1.0, 0.75, 0.25]
    """
    lower = np.searchsorted(np.sort(calibration), scores, "left")
    return (1 + len(calibration) - lower) / (len(calibration) + 1)


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a share of which `count` of n were seen (Clopper and Pearson 1934).

    >>> [round(each, 4) for each in clopper_pearson(2, 41)]
    [0.006, 0.1653]
    """
    tail = (1 - confidence) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
    """Return which of a lot's images to reject, bool [m]: on average at most `rate` of those rejected are normal.

    p: [m] p-values (Benjamini and Hochberg 1995; it holds for conformal p-values, which depend positively on each
    other: Bates et al. 2023).

    >>> benjamini_hochberg(np.array([0.001, 0.02, 0.9, 0.3]), 0.05).tolist()
    [True, True, False, False]
    """
    order, m = np.sort(p), len(p)
    fitting = np.flatnonzero(order <= rate * np.arange(1, m + 1) / m)
    return p <= order[fitting[-1]] if len(fitting) else np.zeros(m, bool)
