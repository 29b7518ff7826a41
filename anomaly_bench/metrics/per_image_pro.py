"""The PRO of each image by itself, as the test code of Reverse Distillation (Deng & Li, CVPR 2022) reports it.

It is another quantity than AUPRO (`aupro.py`), which counts false positives over all images.
"""

from __future__ import annotations

import math

import numpy as np

from .counting import Buckets, Tally, count
from .inputs import Array, Pixels
from .regions import Defects

STEPS = 200  # thresholds
LIMIT = 0.3  # false-positive rate at which the curve stops


def per_image_pro(scores: Pixels, found: Defects) -> float:
    """Return the PRO of one image, in [0, 1]; scores of its pixels, of any shape, some of them normal; found: its
    anomalous ones.

    200 equal steps between the map's minimum and maximum, false-positive rates of this image alone, points with a rate
    below 0.3, the rate divided by the largest one that remains, trapezoids.  As in that code there is no value, here
    nan, where the curve has no width: fewer than two points, or all of them at 0.
    """
    normal = math.prod(scores.shape) - len(found.scores)
    low, high = float(scores.min()), float(scores.max())
    scale = 1 if math.isfinite(high - low) else 2  # so that no difference is infinite
    step = (high / scale - low / scale) / STEPS
    thresholds = (low / scale + np.arange(STEPS) * step) * scale
    passed = np.searchsorted(thresholds, found.scores)  # [A] how many thresholds lie below a score
    weight = 1 / (found.sizes * len(found.sizes))[found.region]
    pro = _passing_more(np.bincount(passed, weight, STEPS + 1))  # at each threshold, like the next two
    hits = _passing_more(np.bincount(passed, minlength=STEPS + 1))
    fpr = (_count_above(scores, thresholds) - hits) / normal
    below = fpr < LIMIT
    fpr, pro = fpr[below], pro[below]
    if len(fpr) < 2 or not fpr[0]:
        return math.nan
    return min(float(-np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr[0]), 1.0)  # sums of shares round


def why_no_mean(images: int, without_width: int, first: int) -> str:
    """Return why the mean over images is undefined, or an empty string.

    images: with both normal and anomalous pixels.  without_width: those whose PRO is nan.  first: the first of these.
    """
    if without_width:
        return f"{without_width} curves have no width below FPR {LIMIT}, the first is that of image {first}"
    return "" if images else "no image has both normal and anomalous pixels"


def _count_above(scores: Pixels, thresholds: Array) -> Array:
    """Return [T] how many scores are > each threshold (float64, ascending)."""
    pixels = scores.reshape(-1)
    if str(scores.dtype).endswith("float32"):  # it can stay what it is: between two of its numbers lies no score
        nearest = thresholds.astype(np.float32)
        thresholds = np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return len(pixels) - count(Tally(Buckets(thresholds)).add(pixels)).reached


def _passing_more(share: Array) -> Array:
    """Return [T] the share that passes more than t thresholds, of [T + 1] the share that passes exactly t."""
    return np.cumsum(share[:0:-1])[::-1]
