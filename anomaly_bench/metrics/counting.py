"""How many normal scores lie around each anomalous one: bare sorts of bounded chunks, in threads or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np

from .ranks import Array, Counts
from .regions import Pixels, host, library

BLOCK = 2**13  # values that are looked up at a time


def count(
    values: Array, images: Iterable[int], normals: Callable[[int], Pixels], chunk_size: int, threads: int
) -> Counts:
    """Counts around `values` (ascending) of the scores that `normals` gives for each of the images.

    chunk_size: so many pixels are sorted at a time, all threads together.
    """
    images, size = list(images), max(1, chunk_size // threads)

    def part(first: int) -> Counts:
        counts = Counts.zero(values)
        for chunk in _chunks(map(normals, images[first::threads]), size, values):
            counts = around(values, chunk, counts)
        return counts

    if threads == 1:
        return part(0)
    with ThreadPoolExecutor(threads) as pool:
        return reduce(Counts.plus, pool.map(part, range(threads)))


def around(values: Array, chunk: Pixels, counts: Counts) -> Counts:
    """Add, in place, the counts around `values` (ascending) of the scores [n] in `chunk`; an array is sorted."""
    if (xp := library(chunk)) is np:
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
        counts.below[block] += host(below) + start
        counts.reached[block] += host(reached) + start
    return counts._replace(normal=counts.normal + len(chunk))


def _chunks(pieces: Iterable[Pixels], size: int, values: Array) -> Iterator[Pixels]:
    """All scores in chunks of `size`; only the last is smaller.  A chunk is overwritten by the next."""
    buffer: Pixels = None
    end = 0
    for piece in pieces:
        if buffer is None:  # pages of it that are never written cost no memory
            xp = library(piece)
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
