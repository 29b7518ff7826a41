"""AUPRO, the area under the per-region overlap (Bergmann et al., CVPR 2020 and IJCV 2021; MVTec's evaluation code).

PRO at a threshold is the mean over all defect regions of the share of a region's pixels that reach it.  Its curve runs
over the false-positive rate of all normal pixels up to a limit L, and the area is divided by L.  It is computed from
counts instead of a curve: for an anomalous pixel of score s in region k of |C_k| pixels, let a and b be the shares of
all normal pixels with a score > s and >= s.  Then, with R regions,

    AUPRO_L = 1 / (L R) * sum over anomalous pixels of g_L(a, b) / |C_k|
    g_L(a, b) = L - (a + b) / 2  if b <= L;   0  if a >= L;   (L - a)^2 / (2 (b - a))  otherwise
"""

from __future__ import annotations

import math

import numpy as np

from .counting import Ranks
from .inputs import Array


def aupro(ranks: Ranks, region: Array, sizes: Array, limit: float) -> float:
    """Return AUPRO, in [0, 1], by the formula above.

    region [A]: which region each anomalous pixel belongs to, the highest score first.  sizes [R]: pixels of each
    region.  limit: of the false-positive rate, in (0, 1].  Sums inside a region are of integers and the last one is
    rounded once, so that no order can change a bit.
    """
    cut = limit * ranks.normal  # in normal pixels
    whole, partial = np.searchsorted(ranks.false, cut, side="right"), np.searchsorted(ranks.above, cut, side="left")
    inside, touched = (
        ranks.equal[:whole].sum(),
        ranks.equal[:partial].sum(),
    )  # pixels; between: the tie at the limit
    missed = np.zeros(len(sizes), np.int64)  # sum of a + b, in normal pixels
    np.add.at(missed, region[:inside], np.repeat((ranks.above + ranks.false)[:whole], ranks.equal[:whole]))
    area = np.bincount(region[:inside], minlength=len(sizes)) * cut - missed / 2
    if whole < partial:
        above, false = ranks.above[whole], ranks.false[whole]
        share = (cut - above) ** 2 / (2 * (false - above))
        area += np.bincount(region[inside:touched], minlength=len(sizes)) * share
    return min(math.fsum(area / sizes) / (cut * len(sizes)), 1.0)  # sums of shares round


def aupro_of_curves(false: Array, overlap: Array, limit: float) -> Array:
    """Return AUPRO [B] of B curves of straight lines: counts of normal pixels [B, M] and overlaps [B, M], both rising.

    >>> aupro_of_curves(np.array([[0, 50, 100]]), np.array([[0, 1, 1]]), limit=0.5)
    array([0.5])
    """
    cut = limit * false[:, -1:]
    inside = false <= cut
    right = np.minimum(np.sum(inside, axis=1, keepdims=True), false.shape[1] - 1)
    (x0, y0), (x1, y1) = ([np.take_along_axis(v, at, axis=1) for v in (false, overlap)] for at in (right - 1, right))
    height = np.where(inside, overlap, y0 + (y1 - y0) * (cut - x0) / (x1 - x0))
    return np.sum(np.diff(np.minimum(false, cut)) * (height[:, 1:] + height[:, :-1]), axis=1) / (2 * cut[:, 0])
