"""Metrics of anomaly maps against masks, over all pixels of all test images: exact, in two passes over the images.

The first pass checks every image and keeps its anomalous pixels; the second counts the normal ones around them.  Each
metric is defined in a file of its own: `auroc.py` (with AP and F1-max), `aupro.py`, `aupimo.py`, `per_image_pro.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from .aupimo import aupimo
from .aupro import aupro
from .auroc import ranking_metrics, ranking_names
from .counting import BLOCK, Buckets, Counts, count_normal, distinct, rank
from .inputs import (
    Array,
    Pixels,
    check_image,
    check_lengths,
    check_limits,
    map_in_threads,
    of_image,
    real_dtype,
    to_native,
    to_numpy,
    undefined,
)
from .per_image_pro import per_image_pro, why_no_mean
from .regions import Defects, counted_pixels, defects, normal_pixels

TOGETHER = 64  # images whose anomalous pixels are joined at once: kept one by one, they leave holes between the maps


class Curve(NamedTuple):
    """The counts behind all curves: between two of these thresholds only normal pixels enter."""

    thresholds: Array  # [D] the distinct anomalous scores, the highest first
    true: Array  # [D] anomalous pixels >= the threshold
    false: Array  # [D] normal ones
    overlap: Array  # [D] the share of a region's pixels >= the threshold, the mean over regions
    anomalous: int  # pixels in all
    normal: int
    per_image_pro: dict[int, float] | None = None  # of the images with both kinds of pixels; None where not kept


class AnomalousPixels(NamedTuple):
    """The anomalous pixels of all images, which the first pass keeps."""

    values: Array  # [D] the distinct scores, ascending
    equal: Array  # [D] pixels of each
    region: Array  # [A] which region a pixel belongs to, from 0, the pixel with the highest score first
    sizes: Array  # [R] pixels of each region
    image: Array  # [R] which image a region belongs to, from 0
    normal: int  # normal pixels in all
    per_image_pro: dict[int, float]  # of the images with both normal and anomalous pixels


def pixel_metrics(
    maps: Sequence[Pixels] | Pixels,
    masks: Sequence[Pixels] | Pixels,
    fpr_limits: Sequence[float] = (0.3, 0.05),
    *,
    ignored: Sequence[Pixels] | Pixels | None = None,
    threads: int = 1,
    chunk_size: int = BLOCK,
) -> dict[str, float]:
    """Return `pixel_auroc`, `pixel_ap`, `pixel_f1_max`, `aupro_<limit>` for each limit, `pro_per_image` and `aupimo`.

    maps: [N, H, W] or any sequence of [H_i, W_i]; arrays, in memory or memory-mapped, or tensors on any device; real
    scores of any range, larger = more anomalous.  masks: the same shapes; any value but 0 is anomalous.  fpr_limits:
    false-positive rates in (0, 1].  ignored: bool of the same shapes, or None; such a pixel is neither normal nor
    anomalous, whatever its mask says.  A sequence may read its images from disk: each is read twice.  Values in [0, 1];
    any order of the images, chunk_size (pixels counted at a time), threads and device give the same bits.

    Tied scores enter a curve together; AP is scikit-learn's step sum.  Regions are the 8-connected components of each
    mask without its ignored pixels, which may cut one into several; false positives are counted over all images, and a
    straight line cuts the curve at the limit.
    `pro_per_image` is the mean over the images with both normal and anomalous pixels, the others left out; `aupimo` is
    the mean over the images with a defect.  Memory above the inputs: the anomalous pixels (about 100 bytes each) and 32
    MiB.

    Undefined is nan with an UndefinedMetricWarning.  Raises ValueError for an empty input, shapes that differ or are
    not [H, W], ignored pixels that are not bool, a limit outside (0, 1], and a score, ignored or not, that is not
    finite (naming image, row and column).

    >>> maps = np.array([[[0.1, 0.2], [0.3, 0.9]], [[0.2, 0.1], [0.4, 0.3]]])
    >>> masks = np.array([[[0, 0], [0, 1]], [[0, 0], [0, 0]]])
    >>> pixel_metrics(maps, masks, fpr_limits=[0.3])["aupro_0.3"]
    1.0
    """
    return pixel_metrics_and_curve(maps, masks, check_limits(fpr_limits), threads, chunk_size, ignored)[0]


def pixel_metrics_and_curve(
    maps: Sequence[Pixels],
    masks: Sequence[Pixels],
    limits: dict[str, float],
    threads: int,
    chunk_size: int = BLOCK,
    ignored: Sequence[Pixels] | None = None,
) -> tuple[dict[str, float], Curve | None]:
    """Return `pixel_metrics`, and the curve that its values come from; None where there is none.

    limits: {"aupro_0.3": 0.3, ...}, as `check_limits` gives them.
    """
    check_lengths(maps, masks, ignored)
    found = find_anomalous(maps, masks, threads, ignored)
    if not len(found.region) or not found.normal:
        return undefined(pixel_names(limits), why_undefined(len(found.region)), 2), None
    buckets = Buckets(found.values)

    def count(images: Iterable[int]) -> Counts:
        def normals(i: int) -> Pixels:
            mask, others = to_numpy(masks[i]) != 0, of_image(ignored, i)
            return normal_pixels(to_native(maps[i]), mask, None if others is None else to_numpy(others))

        return count_normal(buckets, images, normals, chunk_size, threads)

    defective = np.unique(found.image)
    good = count(np.setdiff1d(range(len(maps)), defective))
    ranks = rank(found.equal, good.plus(count(defective)))
    metrics = ranking_metrics(ranks, "pixel")
    metrics |= {name: aupro(ranks, found.region, found.sizes, limit) for name, limit in limits.items()}
    pros = found.per_image_pro
    flat = [index for index, value in pros.items() if math.isnan(value)]
    if reason := why_no_mean(len(pros), len(flat), min(flat, default=0)):
        metrics |= undefined(["pro_per_image"], reason, 2)
    else:
        metrics["pro_per_image"] = math.fsum(pros.values()) / len(pros)
    if not good.normal:
        metrics |= undefined(["aupimo"], "no image is without a defect", 2)
    else:
        metrics["aupimo"] = aupimo(rank(found.equal, good), found.image[found.region])
    overlap = np.cumsum(1 / found.sizes[found.region])[ranks.true - 1] / len(found.sizes)
    return metrics, Curve(found.values[::-1], ranks.true, ranks.false, overlap, ranks.anomalous, ranks.normal, pros)


def pixel_names(limits: Iterable[str]) -> list[str]:
    """Return the names of all pixel metrics, in their order; limits: those of AUPRO."""
    return [*ranking_names("pixel"), *limits, "pro_per_image", "aupimo"]


def why_undefined(anomalous: int) -> str:
    """Return why there is no pixel metric at all.  anomalous: how many such pixels there are."""
    return f"no image has {'a normal' if anomalous else 'an anomalous'} pixel"


def find_anomalous(
    maps: Sequence[Pixels], masks: Sequence[Pixels], threads: int, ignored: Sequence[Pixels] | None = None
) -> AnomalousPixels:
    """Do the first pass: check every image, and keep its anomalous pixels."""

    def one(index: int) -> tuple[int, Defects, float | None]:
        scores, mask, others = check_image(index, maps[index], masks[index], of_image(ignored, index))
        found = defects(scores, mask)
        normal = mask.size - len(found.scores) - (0 if others is None else int(np.count_nonzero(others)))
        mixed = normal and len(found.scores)
        return normal, found, per_image_pro(counted_pixels(scores, others), found) if mixed else None

    images = map_in_threads(one, range(len(maps)), threads)
    scores, regions, sizes = list[Array](), list[Array](), list[Array]()
    pros, normal, first = list[float | None](), 0, 0
    while together := list(islice(images, TOGETHER)):
        found = [each for _, each, _ in together]
        starts = np.cumsum([first, *(len(f.sizes) for f in found)])
        scores.append(np.concatenate([f.scores for f in found], dtype=real_dtype(f.scores for f in found)))
        regions.append(np.concatenate([f.region + n for f, n in zip(found, starts, strict=False)], dtype=np.int32))
        sizes += [f.sizes for f in found]
        normal, first = normal + sum(count for count, _, _ in together), starts[-1]
        pros += [pro for _, _, pro in together]
    every = np.concatenate(scores, dtype=real_dtype(scores))
    order = np.argsort(every)  # of the anomalous pixels only
    values, equal = distinct(every[order])
    image = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
    per_image = {i: p for i, p in enumerate(pros) if p is not None}
    region = np.concatenate(regions)[order[::-1]]
    return AnomalousPixels(values, equal, region, np.concatenate(sizes), image, normal, per_image)
