"""The counts that AUROC, AP, F1-max, AUPRO and AUPIMO are made of: how many scores reach each anomalous score.

A curve has one point for each distinct score, and tied scores enter together.  Between two neighbouring anomalous
scores only normal ones enter, so every area is a sum over the anomalous scores, and the normal ones are only counted,
in threads or on a GPU, and not sorted: how fast NumPy sorts differs sixfold between CPUs.

To be counted, the values lie in buckets of equal width, many more buckets than values.  A score in a bucket without a
value needs one look-up, one in a bucket with a few is compared with them, and only those beside many are sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from .inputs import Array, Pixels, map_in_threads, to_numpy

PER_VALUE, LEAST, MOST = 4, 2**14, 2**23  # buckets for each value, and in all: 64 KiB to 32 MiB
FEW = 7  # values of one bucket, or less, are found by a binary search of three steps
BLOCK = 2**16  # scores that are counted at a time: their arrays stay in the caches


class Counts(NamedTuple):
    """Integer counts of normal scores around D values.  They add up, so that no order and no chunk changes a bit."""

    normal: int  # scores in all
    below: Array  # [D] normal scores < the value
    reached: Array  # [D] normal scores <= the value

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both sets of scores together."""
        return Counts(self.normal + other.normal, self.below + other.below, self.reached + other.reached)


class Ranks(NamedTuple):
    """Integer counts at each distinct anomalous score, the highest score first."""

    anomalous: int  # scores in all
    normal: int
    equal: Array  # [D] anomalous scores of exactly this value
    true: Array  # [D] anomalous scores >= this one
    above: Array  # [D] normal scores > this one
    false: Array  # [D] normal scores >= this one


def distinct(scores: Array) -> tuple[Array, Array]:
    """Return the distinct ones [D] of scores in ascending order [A], and how many there are of each [D]."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])  # the end of each run of ties
    return scores[last], np.diff(last, prepend=-1)


def rank(equal: Array, counts: Counts) -> Ranks:
    """Join the numbers of anomalous scores of each value [D] with the counts of normal scores around these values."""
    equal, normal = equal[::-1], counts.normal
    true = np.cumsum(equal)
    return Ranks(int(true[-1]), normal, equal, true, normal - counts.reached[::-1], normal - counts.below[::-1])


def rank_images(scores: Array, anomalous: Array) -> Ranks:
    """Return the counts for one score of each image; scores [N], anomalous [N] bool with both values."""
    values, equal = distinct(np.sort(scores[anomalous]))
    return rank(equal, count(Tally(Buckets(values)).add(scores[~anomalous])))


class Buckets:
    """D values in ascending order, and the bucket that each lies in: an integer that never falls as scores rise."""

    values: Array  # [D]
    codes: Array  # [B] int32, how many values lie in lower buckets; the complement of it where there are values
    crowded: bool  # whether some buckets have D + 1 there, because they hold too many values

    def __init__(self, values: Array) -> None:
        self.values = values
        tail = len(values) // 64  # outliers must not make the buckets wide: they share the first and the last one
        inner = float(values[tail]), float(values[-1 - tail])
        margin = inner[1] / 2 - inner[0] / 2
        low, high = max(inner[0] - margin, float(values[0])), min(inner[1] + margin, float(values[-1]))
        number = np.dtype(values.dtype if values.dtype.kind == "f" else np.float64)
        size = min(max(PER_VALUE * len(values), LEAST), MOST)
        scale = min(size / (high - low), float(np.finfo(number).max)) if low < high else 0
        self.low, self.high, self.scale = (number.type(limit) for limit in (low, high, scale))
        full, held = distinct(self.of(values, np.empty(len(values), number), np.empty(len(values), np.intp)))
        first, few = np.cumsum(held) - held, held <= FEW  # values in lower buckets
        self.codes = np.repeat(first.astype(np.int32), np.diff(full, prepend=-1))
        self.codes[full] = ~np.where(few, first, len(values) + 1)
        self.steps = [step for step in (4, 2, 1) if step <= held[few].max(initial=0)]
        self.crowded = not few.all()

    def of(self, scores: Array, scaled: Array, out: Array) -> Array:
        """Return the bucket of each score [n]; scaled [n] is overwritten."""
        np.clip(scores, self.low, self.high, out=scaled)
        scaled *= self.scale
        return np.subtract(scaled, self.low * self.scale, out=out, casting="unsafe")

    def beside(self, scores: Array, first: Array) -> Array:
        """Return how many values lie below each score [n] of a bucket with values, and in place the scores to them.

        first: how many lie in lower buckets; D + 1 where the bucket holds many.
        """
        found = first
        for step in self.steps:  # a binary search
            found = found + step * (self.values.take(found + (step - 1), mode="clip") < scores)
        found = np.minimum(found, len(self.values))  # above all values, the search goes on with the last one
        if self.crowded and len(many := np.flatnonzero(first > len(self.values))):
            scores[many] = np.sort(scores[many])
            found[many] = np.searchsorted(self.values, scores[many])
        return found


class Tally:
    """How many scores lie between D ascending values, and at them.  It adds up: no order and no block changes a bit."""

    passed: Pixels  # [D + 1] scores with so many values below them
    tied: Pixels  # [D] scores equal to each value
    values: Pixels  # [D]; all of them arrays, or tensors on the device of the scores

    def __init__(self, buckets: Buckets, block: int = BLOCK) -> None:
        self.buckets, self.block, self.values = buckets, block, buckets.values
        self.passed, self.tied = (np.zeros(len(self.values) + more, np.int64) for more in (1, 0))

    def add(self, scores: Pixels) -> Tally:
        """Count scores [n] that the dtype of the values can hold; return this.  All scores are on one device."""
        if hasattr(scores, "detach") and scores.device.type != "cpu":
            return self.add_tensor(scores)
        scores = to_numpy(scores).astype(self.values.dtype, copy=False)
        size = max(1, min(self.block, len(scores)))
        buffers = np.empty(size, self.buckets.scale.dtype), np.empty(size, np.intp), np.empty(size, np.int32)
        for first in range(0, len(scores), size):
            block = scores[first : first + size]
            self._add_block(block, *(buffer[: len(block)] for buffer in buffers))
        return self

    def _add_block(self, scores: Array, scaled: Array, places: Array, codes: Array) -> None:
        self.buckets.codes.take(self.buckets.of(scores, scaled, places), out=codes, mode="clip")
        places[:] = codes
        near = np.flatnonzero(codes < 0)
        beside = scores.take(near)
        found = self.buckets.beside(beside, ~places.take(near))
        places[near] = found
        np.add.at(self.passed, places, 1)
        np.add.at(self.tied, found[self.values.take(found, mode="clip") == beside], 1)

    def add_tensor(self, scores: Any) -> Tally:
        """Count scores [n] where they are, on any device; return this."""
        import torch

        if isinstance(self.passed, np.ndarray):
            arrays = self.values, self.passed, self.tied
            self.values, self.passed, self.tied = (torch.from_numpy(array).to(scores.device) for array in arrays)
        scores = scores.to(self.values.dtype)
        found = torch.searchsorted(self.values, scores)
        tied = found[self.values[found.clip(max=len(self.values) - 1)] == scores]
        self.passed += torch.bincount(found, minlength=len(self.passed))
        self.tied += torch.bincount(tied, minlength=len(self.tied))
        return self


def count_normal(
    buckets: Buckets, images: Iterable[int], normals: Callable[[int], Pixels], chunk_size: int, threads: int
) -> Counts:
    """Return the counts around the values of `buckets` of the scores that `normals` gives for each of the images.

    chunk_size: so many pixels are counted at a time by each thread.
    """
    images = list(images)

    def count_every(first: int) -> Counts:
        tally = Tally(buckets, chunk_size)
        for image in images[first::threads]:
            tally.add(normals(image))
        return count(tally)

    return reduce(Counts.plus, map_in_threads(count_every, range(threads), threads))


def count(tally: Tally) -> Counts:
    """Return the counts of the normal scores in a tally."""
    reached = np.cumsum(to_numpy(tally.passed))
    return Counts(int(reached[-1]), reached[:-1] - to_numpy(tally.tied), reached[:-1])
