"""sPRO, the saturated per-region overlap (Bergmann et al., IJCV 2022, section 3.3; MVTec LOCO's evaluation code).

A defect is a region that may be larger than what has to be found: anywhere in it, a part may be missing.  Of region k
with |C_k| pixels, s_k are enough: s_k = int(t |C_k|) where its threshold t is relative, else min(t, |C_k|).

    sPRO(t) = mean over regions of min(|{p in C_k : score >= t}| / s_k, 1)

Regions of one image may overlap; normal is a pixel of no region.  Only the s_k highest scores of a region can move its
term, so the area is that of AUPRO (`aupro.py`) with these pixels alone and s_k for the region's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .aupro import aupro
from .counting import BLOCK, Buckets, Counts, count_normal, rank
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
from .regions import normal_pixels, select

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)  # of the authors' code; 0.05 is the paper's first figure
GOOD = "good"


class Region(NamedTuple):
    """One defect of one image, and how much of it has to be found.

    >>> Region(mask=np.array([[0, 255, 255]]), threshold=0.5, relative=True).threshold
    0.5
    """

    mask: Pixels  # [H, W]; any value but 0 is the defect
    threshold: float  # pixels; or where it is relative, a share of the region in (0, 1]
    relative: bool = False


def saturation(area: int, threshold: float, relative: bool, least: int = 0) -> int:
    """Return how many of a region's pixels are enough, at least `least`.

    Raises ValueError for a threshold that no region can have.

    >>> saturation(100, 0.295, relative=True), saturation(100, 30, relative=False), saturation(100, 300, relative=False)
    (29, 30, 100)
    """
    if not (0 < threshold <= 1 if relative else threshold >= 1 and threshold == int(threshold)):
        allowed = "a share in (0, 1]" if relative else "an integer from 1"
        raise ValueError(f"saturation threshold {threshold}; {allowed} is needed")
    enough = max(least, int(threshold * area) if relative else min(int(threshold), area))
    if not enough:
        raise ValueError(f"saturates at {enough} of its {area} pixels; at least one is needed")
    return enough


class _Found(NamedTuple):
    """The pixels of one image that count for its regions."""

    scores: list[Array]  # of each region, its highest
    marked: Array | None  # a bit for each pixel, row by row: ignored or in any region; None where none is


def spro_metrics(
    maps: Sequence[Pixels] | Pixels,
    regions: Sequence[Sequence[Region]],
    kinds: Sequence[str],
    fpr_limits: Sequence[float] = LIMITS,
    *,
    ignored: Sequence[Pixels] | Pixels | None = None,
    threads: int = 1,
    chunk_size: int = BLOCK,
) -> dict[str, float]:
    """Return `spro_<limit>` for each limit, in [0, 1]; with several kinds of defect, `spro_<limit>_<kind>` as well.

    maps: a sequence of real scores [H_i, W_i], larger = more anomalous.  regions: those of each image; none where it is
    normal.  kinds [N]: `good`, or what the defect is; each kind is measured together with all good images, and
    `spro_<limit>` is the mean over the kinds.  fpr_limits: false-positive rates in (0, 1].  ignored: bool [H_i, W_i],
    or None; such a pixel is neither normal nor of a region, which has the size of what is left of it and needs at least
    one pixel; a region or a kind of which nothing is left does not count.  Sequences may read from disk: each map is
    read twice, regions once.  Every distinct score is a threshold, tied ones enter together, and a straight line cuts
    the curve at the limit, as in AUPRO, whose value this is where each region is one component and all of it is needed.
    Memory above the inputs: the pixels that count, a bit for each pixel of anomalous images, and a chunk.

    Undefined is nan with an UndefinedMetricWarning.  Raises ValueError for what `pixel_metrics` refuses, for an empty
    region, for a saturation that is none, and for an image whose kind does not fit its regions (naming it).

    >>> maps = [np.array([[0.1, 0.2, 0.9, 0.0]]), np.array([[0.2, 0.1, 0.3, 0.3]])]
    >>> spro_metrics(maps, [[Region([[0, 0, 1, 1]], 1)], []], ["logical", "good"], [0.05])
    {'spro_0.05': 1.0}
    """
    check_lengths(maps, regions, ignored)
    limits = {name.replace("aupro", "spro"): limit for name, limit in check_limits(fpr_limits).items()}
    if len(kinds) != len(maps):
        raise ValueError(f"{len(maps)} maps and {len(kinds)} kinds; as many of both are needed")

    def find(i: int) -> _Found:
        return _find(i, maps[i], regions[i], kinds[i], of_image(ignored, i))

    found = list(map_in_threads(find, range(len(maps)), threads))
    groups = sorted({kind for kind, each in zip(kinds, found, strict=True) if each.scores})
    if not groups:
        return undefined(limits, "no image has a defect")
    dtype = real_dtype(scores for each in found for scores in each.scores)
    values = np.unique(np.concatenate([scores for each in found for scores in each.scores], dtype=dtype))
    buckets = Buckets(values)

    def count(kind: str) -> Counts:
        def normals(i: int) -> Pixels:
            bits, scores = found[i].marked, to_native(maps[i])
            if bits is None:
                return scores.reshape(-1)
            marked = np.unpackbits(bits, count=math.prod(scores.shape)).astype(bool)
            return normal_pixels(scores, marked.reshape(scores.shape))

        return count_normal(buckets, [i for i in range(len(maps)) if kinds[i] == kind], normals, chunk_size, threads)

    good = count(GOOD)
    areas = {}
    for kind in groups:
        own = [scores for each, name in zip(found, kinds, strict=True) if name == kind for scores in each.scores]
        areas[kind] = _areas(values, own, good.plus(count(kind)), limits)
    metrics = {name: math.fsum(areas[kind][name] for kind in groups) / len(groups) for name in limits}
    return metrics | {f"{name}_{kind}": areas[kind][name] for name in limits for kind in groups if len(groups) > 1}


def _find(index: int, scores: Pixels, regions: Iterable[Region], kind: str, ignored: Pixels | None) -> _Found:
    """Check one image, and return the highest scores of its regions, without those that are wholly ignored."""
    regions = list(regions)
    if bool(regions) != (kind != GOOD):
        raise ValueError(f"image {index}: kind '{kind}' with {len(regions)} regions; only '{GOOD}' images have none")
    highest, marked = list[Array](), np.zeros(np.shape(scores), bool)
    others = None
    if ignored is not None or not regions:
        _, _, others = check_image(index, scores, marked, ignored)
    if others is not None:
        marked |= others
    for k, region in enumerate(regions):
        native, mask, _ = check_image(index, scores, region.mask, others)
        pixels = to_numpy(select(native, mask))
        lost = others is not None and bool((others & (to_numpy(region.mask) != 0)).any())
        if lost and not len(pixels):
            continue
        try:
            enough = saturation(len(pixels), region.threshold, region.relative, least=int(lost))
        except ValueError as error:
            raise ValueError(f"image {index}, region {k}: {error}") from None
        highest.append(np.partition(pixels, len(pixels) - enough)[len(pixels) - enough :])
        marked |= mask
    return _Found(highest, np.packbits(marked) if regions or others is not None else None)


def _areas(values: Array, regions: list[Array], counts: Counts, limits: dict[str, float]) -> dict[str, float]:
    """Return the area up to each limit.  regions: the scores of each that count, all of them among the values."""
    if not counts.normal:
        return undefined(limits, "no image has a normal pixel", 2)
    sizes = np.array([len(scores) for scores in regions])
    at = np.searchsorted(values, np.concatenate(regions))
    ranks = rank(np.bincount(at, minlength=len(values)), counts)
    region = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[np.argsort(at)[::-1]]
    return {name: aupro(ranks, region, sizes, limit) for name, limit in limits.items()}
