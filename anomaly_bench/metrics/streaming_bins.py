"""Histograms over the keys of scores, of normal pixels and of defects: what `StreamingPixelMetrics` counts in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .inputs import Array
from .regions import Defects

UNIT = 2**36  # of a region's weight, so that 2^27 regions nearly fit into an int64
NORMAL, ANOMALOUS, REGION, GOOD, IMAGE = range(5)  # rows of counts; GOOD: normal pixels of images without a defect


class Bins(NamedTuple):
    """A histogram over scores.  Its arrays are never written to."""

    key: Array  # [B] uint64, of the lowest score in the bin
    pure: Array  # [B] whether that is its only score
    counts: Array  # [5, B] int64: pixels; REGION and IMAGE: anomalous ones by their weight


def keys(scores: Array) -> Array:
    """Return uint64 in the order of the scores: their float64 bits, all flipped if negative, else the sign alone."""
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 + 0.0 = 0.0
    return bits ^ (-(bits >> 63) | 2**63)


def runs(keys: Array, shift: int) -> tuple[Array, Array]:
    """Return the first and the last index of each run of equal key >> shift; keys in ascending order."""
    bins = keys >> shift
    last = np.flatnonzero(np.append(bins[1:] != bins[:-1], bins[:1] == bins[:1]))
    return np.append(0, last + 1)[:-1], last


def joined(*bins: Bins) -> Bins:
    """Return all bins behind each other, in no order."""
    return Bins(*(np.concatenate(arrays, axis=-1) for arrays in zip(*bins, strict=True)))


def counted(bins: Bins, shift: int) -> Bins:
    """Return one bin for each key >> shift, in ascending order."""
    order = np.argsort(bins.key, kind="stable")
    key, impure = bins.key[order], np.cumsum(~bins.pure[order])
    first, last = runs(key, shift)
    pure = (key[first] == key[last]) & (np.diff(impure[last], prepend=0) == 0)
    return Bins(key[first], pure, np.diff(np.cumsum(bins.counts[:, order], 1)[:, last], prepend=0))


def of_normal(scores: Array, shift: int, good: int) -> Bins:
    """Return bins of normal pixels [n]; good: 1 where their images have no defect, else 0.  Only scores are sorted."""
    key = keys(np.sort(scores))
    first, last = runs(key, shift)
    return Bins(key[first], key[first] == key[last], np.outer([1, 0, 0, good, 0], last - first + 1))


def of_defects(found: Defects) -> Bins:
    """Return the anomalous pixels of one image, a bin for each; the order of equal scores does not matter.

    The highest j pixels of a region of C weigh floor(j UNIT / C), too little by less than a unit, so that a mean over
    regions is too small by less than 1 / UNIT.  The same goes for the whole defect of an image.
    """
    order = np.argsort(found.scores)
    counts = np.zeros((5, len(order)), np.int64)
    counts[ANOMALOUS] = 1
    for row, region in ((REGION, found.region[order]), (IMAGE, np.zeros_like(order))):
        sizes = np.bincount(region)
        size = np.repeat(sizes, sizes)  # C
        reached = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(order))  # j
        upto, above = (j * (UNIT // size) + j * (UNIT % size) // size for j in (reached, reached - 1))  # fits int64
        counts[row, np.argsort(region, kind="stable")] = upto - above
    return Bins(keys(found.scores[order]), np.ones(len(order), bool), counts)
