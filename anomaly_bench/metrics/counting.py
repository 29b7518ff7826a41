"""The counts that AUROC, AP, F1-max, AUPRO and AUPIMO are made of: how many scores reach each anomalous score.

A curve has one point for each distinct score, and tied scores enter together.  Between two neighbouring anomalous
scores only normal ones enter, so every area is a sum over the anomalous scores, and the normal ones are only counted:
chunks of bounded size are sorted, in threads or on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np

from .inputs import Array, Pixels, array_module, map_in_threads, to_numpy

BLOCK = 2**13  # values that are looked up at a time


class Counts(NamedTuple):
    """Integer counts of normal scores around D values.  They add up, so that no order and no chunk changes a bit."""

    normal: int  # scores in all
    below: Array  # [D] normal scores < the value
    reached: Array  # [D] normal scores <= the value

    @classmethod
    def zero(cls, values: Array) -> Counts:
        """Return the counts of no score."""
        return cls(0, np.zeros(len(values), np.int64), np.zeros(len(values), np.int64))

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
    return rank(equal, count_around(values, scores[~anomalous], Counts.zero(values)))


def count_normal(
    values: Array, images: Iterable[int], normals: Callable[[int], Pixels], chunk_size: int, threads: int
) -> Counts:
    """Return the counts around `values` (ascending) of the scores that `normals` gives for each of the images.

    chunk_size: so many pixels are sorted at a time, all threads together.
    """
    images, size = list(images), max(1, chunk_size // threads)

    def count_every(first: int) -> Counts:
        counts = Counts.zero(values)
        for chunk in _chunks(map(normals, images[first::threads]), size, values):
            counts = count_around(values, chunk, counts)
        return counts

    return reduce(Counts.plus, map_in_threads(count_every, range(threads), threads))


def count_around(values: Array, chunk: Pixels, counts: Counts) -> Counts:
    """Add in place the counts around `values` (ascending) of the scores [n] in `chunk`; an array is sorted."""
    if (xp := array_module(chunk)) is np:
        chunk.sort()
    else:
        chunk = chunk.sort().values
    size = BLOCK if xp is np else len(values)  # a GPU waits at each end of a block
    for first in range(0, len(values), size):
        block = slice(first, first + size)
        wanted = values[block] if xp is np else xp.from_numpy(values[block]).to(chunk.device)
        ends = (xp.searchsorted(chunk, wanted[[0, -1]], side=side) for side in ("left", "right"))
        start, stop = (int(end[i].clip(max=len(chunk) - 1)) for i, end in enumerate(ends))
        near = chunk[start : stop + 1]  # all searches of the block end here, where the caches are warm
        below = xp.searchsorted(near, wanted)
        reached = below + (near[below.clip(max=len(near) - 1)] == wanted)  # right for one tied score or none
        more = (near[reached.clip(max=len(near) - 1)] == wanted) & (reached < len(near))
        if more.any():
            reached[more] = xp.searchsorted(near, wanted[more], side="right")
        counts.below[block] += to_numpy(below) + start
        counts.reached[block] += to_numpy(reached) + start
    return counts._replace(normal=counts.normal + len(chunk))


def _chunks(pieces: Iterable[Pixels], size: int, values: Array) -> Iterator[Pixels]:
    """Yield all scores in chunks of `size`; only the last is smaller.  A chunk is overwritten by the next."""
    buffer: Pixels = None
    end = 0
    for piece in pieces:
        if buffer is None:  # pages of it that are never written cost no memory
            xp = array_module(piece)
            empty = np.empty(0, values.dtype)
            buffer = np.empty(size, values.dtype) if xp is np else xp.from_numpy(empty).to(piece.device).new_empty(size)
        while len(piece):
            taken = piece[: size - end]
            buffer[end : end + len(taken)] = taken
            end, piece = end + len(taken), piece[len(taken) :]
            if end == size:
                yield buffer
                end = 0
    if end:
        yield buffer[:end]
