"""AUPIMO: the area under the per-image overlap (Bertoldo et al., BMVC 2024), the mean over the images with a defect.

The false-positive rate is that of the images without a defect only and runs from 1e-5 to 1e-4 on a logarithmic axis
(section 3 of the paper); the overlap is the share of an image's anomalous pixels that reach a threshold.
"""

from __future__ import annotations

import math

import numpy as np

from .counting import Ranks
from .inputs import Array

FPR_RANGE = (1e-5, 1e-4)


def aupimo(ranks: Ranks, image: Array) -> float:
    """Return AUPIMO, in [0, 1].  Where scores tie, the curve is a straight line over the rate.

    ranks: against the pixels of images without a defect.  image [A]: which image each anomalous pixel belongs to, the
    highest score first.
    """
    low, high = (rate * ranks.normal for rate in FPR_RANGE)
    inside = slice(np.searchsorted(ranks.above, high))  # beyond the highest rate, nothing is added
    above, false = ranks.above[inside].astype(np.float64), ranks.false[inside].astype(np.float64)
    start, stop = np.clip(above, low, high), np.clip(false, low, high)
    with np.errstate(invalid="ignore"):
        tie = (stop - start - above * np.log1p((stop - start) / start)) / (false - above)
    overlap = np.log(high / stop) + np.where(stop > start, tie, 0)  # [D] integral over the logarithm of the rate
    pixels = np.bincount(image)  # [N] of defects
    overlap = np.repeat(overlap, ranks.equal[inside])
    areas = np.bincount(image[: len(overlap)], overlap, len(pixels)) / np.maximum(pixels, 1)
    return min(float(math.fsum(areas) / (np.count_nonzero(pixels) * math.log(high / low))), 1.0)  # sums of shares round


def aupimo_of_curves(false: Array, overlap: Array) -> Array:
    """Return AUPIMO [B] of B curves of straight lines: counts of normal pixels [B, M] and overlaps [B, M], both rising.

    >>> aupimo_of_curves(np.array([[0.0, 1e5]]), np.array([[1.0, 1.0]])).round(12)
    array([1.])
    """
    low, high = (rate * false[:, -1:] for rate in FPR_RANGE)
    inside, width = np.clip(false, low, high), np.diff(false)
    slope = np.divide(np.diff(overlap), width, out=np.zeros_like(width), where=width > 0)
    areas = (overlap[:, :-1] - slope * false[:, :-1]) * np.diff(np.log(inside)) + slope * np.diff(inside)
    return np.sum(areas, axis=1) / np.log(high / low)[:, 0]
