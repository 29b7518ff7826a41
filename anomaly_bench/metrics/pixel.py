"""Metrics of anomaly maps against masks, over all pixels of all test images: exact, in two passes.

AUPRO as in Bergmann et al., CVPR 2020 and IJCV 2021, and in MVTec's evaluation code, from counts instead of a curve.
For an anomalous pixel of score s in region k of |C_k| pixels, let a and b be the shares of all normal pixels with a
score > s and >= s.  Then, with R regions,

    AUPRO_L = 1 / (L R) * sum over anomalous pixels of g_L(a, b) / |C_k|
    g_L(a, b) = L - (a + b) / 2  if b <= L;   0  if a >= L;   (L - a)^2 / (2 (b - a))  otherwise
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from .counting import count
from .ranks import Array, Counts, Ranks, auroc, average_precision, distinct, f1_max, rank, real_dtype, undefined
from .regions import PER_IMAGE_LIMIT, Defects, Pixels, checked, defects, host, native, normal_pixels, per_image_pro

AUPIMO_FPR = (1e-5, 1e-4)  # Bertoldo et al., BMVC 2024, sec. 3: the range of false-positive rates on normal images
CHUNK_SIZE = 2**25  # pixels that are sorted at a time: 128 MiB of float32


class Curve(NamedTuple):
    """All that there is of the curves: from one of these thresholds to the next only normal pixels enter."""

    thresholds: Array  # [D] the distinct anomalous scores, the highest first
    true: Array  # [D] anomalous pixels >= the threshold
    false: Array  # [D] normal ones
    overlap: Array  # [D] the share of a region's pixels >= the threshold, the mean over regions
    anomalous: int  # pixels in all
    normal: int


class Gathered(NamedTuple):
    """What one pass over the images keeps: the anomalous pixels of all of them."""

    values: Array  # [D] the distinct scores, ascending
    equal: Array  # [D] pixels of each
    region: Array  # [A] which region a pixel belongs to, from 0, the pixel with the highest score first
    sizes: Array  # [R] pixels of each region
    image: Array  # [R] which image a region belongs to, from 0
    normal: int  # pixels
    per_image_pro: dict[int, float]  # of the images with both normal and anomalous pixels


def pixel_metrics(
    maps: Sequence[Pixels] | Pixels,
    masks: Sequence[Pixels] | Pixels,
    fpr_limits: Sequence[float] = (0.3, 0.05),
    *,
    threads: int = 1,
    chunk_size: int = CHUNK_SIZE,
) -> dict[str, float]:
    """`pixel_auroc`, `pixel_ap`, `pixel_f1_max`, `aupro_<limit>` for each limit, `pro_per_image` and `aupimo`.

    maps: [N, H, W] or any sequence of [H_i, W_i]; arrays, in memory or memory-mapped, or tensors on any device; real
    scores of any range, larger = more anomalous.  masks: the same shapes; any value but 0 is anomalous.  fpr_limits:
    false-positive rates in (0, 1].  A sequence may read its images from disk: each is asked for twice.  Values in
    [0, 1]; any order of the images, chunk_size (pixels sorted at a time), threads and device give the same bits.

    Tied scores enter a curve together; AP is scikit-learn's step sum.  Regions are the 8-connected components of each
    mask; false positives are counted over all images, and a straight line cuts the curve at the limit.
    `pro_per_image` is another quantity than AUPRO, see `regions.per_image_pro`: its mean over the images with both
    normal and anomalous pixels, the others left out.  `aupimo` is the mean over the images with a defect, see `aupimo`.
    Memory above the inputs: the anomalous pixels (about 100 bytes each) and a chunk.

    Undefined is nan with an UndefinedMetricWarning.  Raises ValueError for an empty input, shapes that differ or are
    not [H, W], a limit outside (0, 1], and a score that is not finite (naming image, row and column).
    """
    return exact(maps, masks, checked_limits(fpr_limits), threads, chunk_size)[0]


def exact(
    maps: Sequence[Pixels],
    masks: Sequence[Pixels],
    limits: dict[str, float],
    threads: int,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[dict[str, float], Curve | None]:
    """`pixel_metrics`, and the curve that its values come from; None where there is none."""
    if len(maps) != len(masks) or not len(maps):
        raise ValueError(f"{len(maps)} maps and {len(masks)} masks; as many of both are needed, and at least one")
    found = gather(maps, masks, threads)
    if not len(found.region) or not found.normal:
        names = ["pixel_auroc", "pixel_ap", "pixel_f1_max", *limits, "pro_per_image", "aupimo"]
        return undefined(names, f"no image has {'a normal' if len(found.region) else 'an anomalous'} pixel", 2), None

    def counts(images: Iterable[int]) -> Counts:
        def normals(i: int) -> Pixels:
            return normal_pixels(native(maps[i]), host(masks[i]) != 0)

        return count(found.values, images, normals, chunk_size, threads)

    defective = np.unique(found.image)
    good = counts(np.setdiff1d(range(len(maps)), defective))
    ranks = rank(found.equal, good.plus(counts(defective)))
    metrics = {"pixel_auroc": auroc(ranks), "pixel_ap": average_precision(ranks), "pixel_f1_max": f1_max(ranks)}
    metrics |= {name: aupro(ranks, found.region, found.sizes, limit) for name, limit in limits.items()}
    if reason := _no_mean(found.per_image_pro):
        metrics |= undefined(["pro_per_image"], reason, 2)
    else:
        metrics["pro_per_image"] = math.fsum(found.per_image_pro.values()) / len(found.per_image_pro)
    if not good.normal:
        metrics |= undefined(["aupimo"], "no image is without a defect", 2)
    else:
        metrics["aupimo"] = aupimo(rank(found.equal, good), found.image[found.region])
    overlap = np.cumsum(1 / found.sizes[found.region])[ranks.true - 1] / len(found.sizes)
    return metrics, Curve(found.values[::-1], ranks.true, ranks.false, overlap, ranks.anomalous, ranks.normal)


def checked_limits(fpr_limits: Sequence[float]) -> dict[str, float]:
    """{"aupro_0.3": 0.3, ...}.  Raises ValueError for one outside (0, 1]."""
    for limit in fpr_limits:
        if not 0 < limit <= 1:
            raise ValueError(f"fpr_limits: {limit} is outside (0, 1]")
    return {f"aupro_{limit:g}": float(limit) for limit in fpr_limits}


def gather(maps: Sequence[Pixels], masks: Sequence[Pixels], threads: int) -> Gathered:
    """The first pass: every check, and what is kept of each image."""

    def one(index: int) -> tuple[int, Defects, float | None]:
        scores, mask = checked(index, maps[index], masks[index])
        found = defects(scores, mask)
        normal = mask.size - len(found.scores)
        return normal, found, per_image_pro(scores, found) if normal and len(found.scores) else None

    images: Iterable[int] = range(len(maps))
    if threads == 1:
        normal, found, pros = zip(*map(one, images), strict=True)
    else:
        with ThreadPoolExecutor(threads) as pool:
            normal, found, pros = zip(*pool.map(one, images), strict=True)
    first = np.cumsum([0, *(len(f.sizes) for f in found)])
    dtype = real_dtype(f.scores for f in found)
    scores = np.concatenate([f.scores for f in found], dtype=dtype)
    region = np.concatenate([f.region + n for f, n in zip(found, first, strict=False)], dtype=np.int32)
    order = np.argsort(scores)  # of the anomalous pixels only
    values, equal = distinct(scores[order])
    image, sizes = np.repeat(np.arange(len(found)), np.diff(first)), np.concatenate([f.sizes for f in found])
    per_image = {i: p for i, p in enumerate(pros) if p is not None}
    return Gathered(values, equal, region[order[::-1]], sizes, image, sum(normal), per_image)


def aupro(ranks: Ranks, region: Array, sizes: Array, limit: float) -> float:
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


def aupimo(ranks: Ranks, image: Array) -> float:
    """Area under the per-image overlap (Bertoldo et al., BMVC 2024), the mean over the images with a defect.

    The false-positive rate is that of the normal images only and runs from 1e-5 to 1e-4 on a logarithmic axis; the
    overlap is the share of an image's anomalous pixels.  Where scores tie, the curve is a straight line over the rate.
    ranks: against normal images.  image [A]: of each anomalous pixel, the highest score first.
    """
    low, high = (rate * ranks.normal for rate in AUPIMO_FPR)
    inside = slice(np.searchsorted(ranks.above, high))  # beyond the highest rate, nothing is added
    above, false = ranks.above[inside].astype(np.float64), ranks.false[inside].astype(np.float64)
    start, stop = np.clip(above, low, high), np.clip(false, low, high)
    with np.errstate(invalid="ignore"):
        tie = (stop - start - above * np.log1p((stop - start) / start)) / (false - above)
    overlap = np.log(high / stop) + np.where(stop > start, tie, 0)  # [D] integral over the logarithm of the rate
    pixels = np.bincount(image)  # [N] of defects
    overlap = np.repeat(overlap, ranks.equal[inside])
    areas = np.bincount(image[: len(overlap)], overlap, len(pixels)) / np.maximum(pixels, 1)
    return float(math.fsum(areas) / (np.count_nonzero(pixels) * math.log(high / low)))


def _no_mean(per_image: dict[int, float]) -> str:
    """Why the per-image PRO has no mean; empty where it has one."""
    flat = [index for index, value in per_image.items() if math.isnan(value)]
    if flat:
        return f"{len(flat)} curves have no width below FPR {PER_IMAGE_LIMIT}, the first is that of image {flat[0]}"
    return "" if per_image else "no image has both normal and anomalous pixels"
