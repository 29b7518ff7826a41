"""Metrics of anomaly maps against masks, over all pixels of all test images.

AUPRO as in Bergmann et al., CVPR 2020 and IJCV 2021, and in MVTec's evaluation code, from counts instead of a curve.
For an anomalous pixel of score s in region k of |C_k| pixels, let a and b be the shares of all normal pixels with a
score > s and >= s.  Then, with R regions,

    AUPRO_L = 1 / (L R) * sum over anomalous pixels of g_L(a, b) / |C_k|
    g_L(a, b) = L - (a + b) / 2  if b <= L;   0  if a >= L;   (L - a)^2 / (2 (b - a))  otherwise
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .ranks import Array, Ranks, auroc, average_precision, f1_max, rank, real_dtype, undefined

PER_IMAGE_STEPS = 200  # thresholds, and
PER_IMAGE_LIMIT = 0.3  # where the curve stops: both from the test code of Reverse Distillation (Deng & Li, CVPR 2022)


class _Defects(NamedTuple):
    """The anomalous pixels of one image, or of all of them."""

    scores: Array  # [A]
    region: Array  # [A] which region a pixel belongs to, from 0
    sizes: Array  # [R] pixels of each region


def pixel_metrics(
    maps: Array | Sequence[Array], masks: Array | Sequence[Array], fpr_limits: Sequence[float] = (0.3, 0.05)
) -> dict[str, float]:
    """`pixel_auroc`, `pixel_ap`, `pixel_f1_max`, `aupro_<limit>` for each limit and `pro_per_image`, each in [0, 1].

    maps: [N, H, W] or a sequence of [H_i, W_i], in memory or memory-mapped; real scores of any range, larger = more
    anomalous.  masks: the same shapes; any value but 0 is anomalous.  fpr_limits: false-positive rates in (0, 1].

    Tied scores enter a curve together; AP is scikit-learn's step sum.  Regions are the 8-connected components of each
    mask; false positives are counted over all images, and a straight line cuts the curve at the limit.
    `pro_per_image` is another quantity than AUPRO, see `_per_image_pro`: its mean over the images with both normal
    and anomalous pixels, the others left out.  Any order of the images gives the same bits.  Memory above the inputs:
    one copy of the scores, and the anomalous pixels.

    Undefined is nan with an UndefinedMetricWarning.  Raises ValueError for an empty input, shapes that differ or are
    not [H, W], a limit outside (0, 1], and a score that is not finite (naming image, row and column).
    """
    maps, masks = _checked(maps, masks)
    limits = {f"aupro_{limit:g}": float(limit) for limit in fpr_limits}
    for limit in limits.values():
        if not 0 < limit <= 1:
            raise ValueError(f"fpr_limits: {limit} is outside (0, 1]")
    everything, defects, per_image = _gather(maps, masks)
    if len(defects.scores) in (0, len(everything)):
        names = ["pixel_auroc", "pixel_ap", "pixel_f1_max", *limits, "pro_per_image"]
        return undefined(names, f"no image has {'a normal' if len(defects.scores) else 'an anomalous'} pixel")
    everything.sort()
    order = np.argsort(defects.scores)[::-1]
    ranks, region = rank(defects.scores[order], everything), defects.region[order]
    values = {"pixel_auroc": auroc(ranks), "pixel_ap": average_precision(ranks), "pixel_f1_max": f1_max(ranks)}
    values |= {name: _aupro(ranks, region, defects.sizes, limit) for name, limit in limits.items()}
    if reason := _no_mean(per_image):
        return values | undefined(["pro_per_image"], reason)
    return values | {"pro_per_image": math.fsum(per_image.values()) / len(per_image)}


def _checked(maps: Array | Sequence[Array], masks: Array | Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Both as lists of [H_i, W_i], at least one; nothing is copied."""
    maps, masks = [np.asarray(scores) for scores in maps], [np.asarray(mask) for mask in masks]
    if len(maps) != len(masks) or not maps:
        raise ValueError(f"{len(maps)} maps and {len(masks)} masks; as many of both are needed, and at least one")
    for index, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        if scores.ndim != 2 or scores.shape != mask.shape or not scores.size:
            raise ValueError(f"image {index}: map {scores.shape} and mask {mask.shape}; both must be [H, W], not empty")
        if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
            raise ValueError(f"image {index}: the mask ({mask.dtype}) holds something that is not a number")
    return maps, masks


def _gather(maps: list[Array], masks: list[Array]) -> tuple[Array, _Defects, dict[int, float]]:
    """All scores (in any order inside an image), all defects, and the per-image PRO of the images that have one."""
    everything = np.empty(sum(scores.size for scores in maps), real_dtype(maps))
    found, per_image, end, regions = [], {}, 0, 0
    for index, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        start, end = end, end + scores.size
        pixels = everything[start:end]
        image = pixels.reshape(scores.shape)
        image[...] = scores
        if not np.isfinite(pixels).all():
            row, column = np.argwhere(~np.isfinite(image))[0]
            raise ValueError(
                f"image {index}: score {image[row, column]} at row {row}, column {column}; it must be finite"
            )
        defects = _defects(image, mask != 0)
        found.append(defects._replace(region=defects.region + regions))
        regions += len(defects.sizes)
        if 0 < len(defects.scores) < len(pixels):
            pixels.sort()
            per_image[index] = _per_image_pro(pixels, defects)
    return everything, _Defects(*map(np.concatenate, zip(*found, strict=True))), per_image


def _defects(scores: Array, mask: Array) -> _Defects:
    """The anomalous pixels of one image, row by row; scores [H, W], mask [H, W] bool."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return _Defects(scores[:0, 0], np.empty(0, np.int32), np.empty(0, np.int64))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # most defects are small
    labels, _ = ndimage.label(mask[box], structure=np.ones((3, 3)))  # the default is 4-connected
    region = labels[mask[box]] - 1
    return _Defects(scores[box][mask[box]], region, np.bincount(region))


def _aupro(ranks: Ranks, region: Array, sizes: Array, limit: float) -> float:
    """The closed form above.  region [A]: of each anomalous pixel, the highest score first.

    Sums inside a region are of integers and the last one is rounded once, so that no order can change a bit.
    """
    cut = limit * ranks.normal  # in normal pixels
    whole, part = np.searchsorted(ranks.false, cut, side="right"), np.searchsorted(ranks.above, cut, side="left")
    inside, touched = ranks.equal[:whole].sum(), ranks.equal[:part].sum()  # pixels; between them the tie over the limit
    missed = np.zeros(len(sizes), np.int64)  # sum of a + b, in normal pixels
    np.add.at(missed, region[:inside], np.repeat((ranks.above + ranks.false)[:whole], ranks.equal[:whole]))
    area = np.bincount(region[:inside], minlength=len(sizes)) * cut - missed / 2
    if whole < part:
        above, false = ranks.above[whole], ranks.false[whole]
        share = (cut - above) ** 2 / (2 * (false - above))
        area += np.bincount(region[inside:touched], minlength=len(sizes)) * share
    return math.fsum(area / sizes) / (cut * len(sizes))


def _per_image_pro(pixels: Array, defects: _Defects) -> float:
    """The PRO that Reverse Distillation's code reports, of one image; pixels [H * W] ascending, some of them normal.

    200 equal steps between the map's minimum and maximum, false-positive rates of this image alone, points with a rate
    below 0.3, the rate divided by the largest one kept, trapezoids.  As in that code there is no value, here nan, where
    the curve has no width: fewer than two points, or all of them at 0.
    """
    low, high = float(pixels[0]), float(pixels[-1])
    thresholds = low + np.arange(PER_IMAGE_STEPS) * ((high - low) / PER_IMAGE_STEPS)
    passed = np.searchsorted(thresholds, defects.scores)  # [A] how many thresholds lie below a score
    weight = 1 / (defects.sizes * len(defects.sizes))[defects.region]
    pro = _passing_more(np.bincount(passed, weight, PER_IMAGE_STEPS + 1))  # at each threshold, like the next two
    hits = _passing_more(np.bincount(passed, minlength=PER_IMAGE_STEPS + 1))
    false = len(pixels) - np.searchsorted(pixels, thresholds, side="right") - hits
    fpr = false / (len(pixels) - len(defects.scores))
    kept = fpr < PER_IMAGE_LIMIT
    fpr, pro = fpr[kept], pro[kept]
    if len(fpr) < 2 or not fpr[0]:
        return math.nan
    return float(-np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr[0])


def _passing_more(share: Array) -> Array:
    """[T + 1] what passes exactly t thresholds -> [T] what passes more than t, and so lies above threshold t."""
    return np.cumsum(share[:0:-1])[::-1]


def _no_mean(per_image: dict[int, float]) -> str:
    """Why the per-image PRO has no mean; empty where it has one."""
    flat = [index for index, value in per_image.items() if math.isnan(value)]
    if flat:
        return f"{len(flat)} curves have no width below FPR {PER_IMAGE_LIMIT}, the first is that of image {flat[0]}"
    return "" if per_image else "no image has both normal and anomalous pixels"
