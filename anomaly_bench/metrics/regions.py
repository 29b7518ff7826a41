"""The pixels of one image: the normal ones, and the anomalous ones with their defect regions.

Scores may be a NumPy array or a tensor on any device; regions and every count are NumPy arrays.  The counts are
integers, so both kinds of maps give the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .inputs import Array, Pixels, array_module, to_numpy


class Defects(NamedTuple):
    """The anomalous pixels of one image."""

    scores: Array  # [A]
    region: Array  # [A] which region a pixel belongs to, from 0
    sizes: Array  # [R] pixels of each region


def defects(scores: Pixels, mask: Array) -> Defects:
    """Return the anomalous pixels of one image, row by row; scores [H, W], mask [H, W] bool.

    Regions are 8-connected components of the mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Defects(to_numpy(scores[:0, 0]), np.empty(0, np.int32), np.empty(0, np.int64))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # most defects are small
    labels, _ = ndimage.label(mask[box], structure=np.ones((3, 3)))  # the default is 4-connected
    region = labels[mask[box]] - 1
    return Defects(to_numpy(select(scores[box], mask[box])), region, np.bincount(region))


def normal_pixels(scores: Pixels, mask: Array, ignored: Array | None = None) -> Pixels:
    """Return the scores [H * W - A - I] of the normal pixels of one image, in any order.

    mask: bool [H, W].  ignored: likewise, or None; a pixel may be in both.
    """
    others = mask if ignored is None else mask | ignored
    return select(scores, ~others) if others.any() else scores.reshape(-1)


def counted_pixels(scores: Pixels, ignored: Array | None) -> Pixels:
    """Return the scores that are not ignored: [H, W] where nothing is, else [H * W - I]."""
    return scores if ignored is None else select(scores, ~ignored)


def select(scores: Pixels, mask: Array) -> Pixels:
    """Return the scores [H, W] under a mask bool [H, W], row by row."""
    xp = array_module(scores)
    return scores[mask if xp is np else xp.from_numpy(np.ascontiguousarray(mask)).to(scores.device)]
