"""One image: its checks, its normal pixels, its defective regions, and the PRO that it has by itself.

A map is a NumPy array or a tensor on any device; masks, regions and every count that leaves this module are NumPy
arrays.  The counts are integers, so both kinds of maps give the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from .ranks import Array, real_dtype

PER_IMAGE_STEPS = 200  # thresholds, and
PER_IMAGE_LIMIT = 0.3  # where the curve stops: both from the test code of Reverse Distillation (Deng & Li, CVPR 2022)

FAST = (np.dtype("float32"), np.dtype("float64"))  # dtypes that need no look

Pixels = Any  # scores: a NumPy array, or a tensor (torch is imported only where there is one)


class Defects(NamedTuple):
    """The anomalous pixels of one image."""

    scores: Array  # [A]
    region: Array  # [A] which region a pixel belongs to, from 0
    sizes: Array  # [R] pixels of each region


def checked(index: int, scores: Any, mask: Any) -> tuple[Pixels, Array]:
    """One image's scores [H, W] in a native dtype, and its mask [H, W] as bool on the host.

    Raises ValueError naming the image for shapes that differ, are not [H, W] or empty, for a mask with something else
    than numbers, and for a score that is not finite (with its row and column).
    """
    scores, mask = native(scores), host(mask)
    if scores.ndim != 2 or scores.shape != mask.shape or not mask.size:
        shapes = f"map {tuple(scores.shape)} and mask {mask.shape}"
        raise ValueError(f"image {index}: {shapes}; both must be [H, W], not empty")
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
        raise ValueError(f"image {index}: the mask ({mask.dtype}) holds something that is not a number")
    finite = library(scores).isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~host(finite))[0]
        value = float(scores[row, column])
        raise ValueError(f"image {index}: score {value} at row {row}, column {column}; it must be finite")
    return scores, mask != 0


def library(scores: Pixels) -> Any:
    """torch for a tensor, NumPy for anything else."""
    if hasattr(scores, "detach"):
        import torch

        return torch
    return np


def native(scores: Any) -> Pixels:
    """The scores as they are in a dtype that can be sorted fast, float16 as float32.  Raises ValueError: not real."""
    if not hasattr(scores, "detach"):
        scores = np.asarray(scores)
        if scores.dtype in FAST:
            return scores
        return scores.astype(real_dtype([scores]), copy=False)
    if scores.is_complex():
        raise ValueError(f"scores of type {scores.dtype}; real numbers are needed")
    small = scores.is_floating_point() and scores.element_size() < 4
    return scores.detach().float() if small else scores.detach()


def host(array: Any) -> Array:
    """A NumPy array of a tensor, an array or a nested list."""
    if hasattr(array, "detach"):
        return np.asarray(native(array).cpu().numpy())
    return np.asarray(array)


def normal_pixels(scores: Pixels, mask: Array) -> Pixels:
    """[H * W - A] of one image, in any order."""
    return _pick(scores, ~mask) if mask.any() else scores.reshape(-1)


def _pick(scores: Pixels, mask: Array) -> Pixels:
    """The pixels under a mask [H, W], row by row."""
    xp = library(scores)
    return scores[mask if xp is np else xp.from_numpy(np.ascontiguousarray(mask)).to(scores.device)]


def above(scores: Pixels, thresholds: Array, most: int) -> Array:
    """[T] how many scores are > each threshold (float64, ascending), or `most` where there are more."""
    if (xp := library(scores)) is np:
        top = np.partition(scores, scores.size - most, axis=None)[-most:]
        top.sort()
        return most - np.searchsorted(top, thresholds, side="right")
    top = scores.flatten().topk(most).values.flip(0).double()
    return most - host(xp.searchsorted(top, xp.from_numpy(thresholds).to(scores.device), right=True))


def defects(scores: Pixels, mask: Array) -> Defects:
    """The anomalous pixels of one image, row by row; scores [H, W], mask [H, W] bool."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Defects(host(scores[:0, 0]), np.empty(0, np.int32), np.empty(0, np.int64))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # most defects are small
    labels, _ = ndimage.label(mask[box], structure=np.ones((3, 3)))  # the default is 4-connected
    region = labels[mask[box]] - 1
    return Defects(host(_pick(scores[box], mask[box])), region, np.bincount(region))


def per_image_pro(scores: Pixels, found: Defects) -> float:
    """The PRO that Reverse Distillation's code reports, of one image; scores [H, W], some of them normal.

    200 equal steps between the map's minimum and maximum, false-positive rates of this image alone, points with a rate
    below 0.3, the rate divided by the largest one kept, trapezoids.  As in that code there is no value, here nan, where
    the curve has no width: fewer than two points, or all of them at 0.
    """
    normal = math.prod(scores.shape) - len(found.scores)
    low, high = float(scores.min()), float(scores.max())
    scale = 1 if math.isfinite(high - low) else 2  # so that no difference is infinite
    step = (high / scale - low / scale) / PER_IMAGE_STEPS
    thresholds = (low / scale + np.arange(PER_IMAGE_STEPS) * step) * scale
    passed = np.searchsorted(thresholds, found.scores)  # [A] how many thresholds lie below a score
    weight = 1 / (found.sizes * len(found.sizes))[found.region]
    pro = _passing_more(np.bincount(passed, weight, PER_IMAGE_STEPS + 1))  # at each threshold, like the next two
    hits = _passing_more(np.bincount(passed, minlength=PER_IMAGE_STEPS + 1))
    most = min(int(PER_IMAGE_LIMIT * normal) + 2, normal) + len(found.scores)  # with so many, the rate is too high
    fpr = (above(scores, thresholds, most) - hits) / normal
    kept = fpr < PER_IMAGE_LIMIT
    fpr, pro = fpr[kept], pro[kept]
    if len(fpr) < 2 or not fpr[0]:
        return math.nan
    return float(-np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr[0])


def _passing_more(share: Array) -> Array:
    """[T + 1] what passes exactly t thresholds -> [T] what passes more than t, and so lies above threshold t."""
    return np.cumsum(share[:0:-1])[::-1]
