"""What the metrics accept: arrays or tensors, checked; and what they say where a metric has no value."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

FAST = (np.dtype("float32"), np.dtype("float64"))  # dtypes that are used as they are

Array = np.ndarray[Any, np.dtype[Any]]
Pixels = Any  # scores: a NumPy array, or a tensor (torch is imported only where there is one)
Item = TypeVar("Item")
Result = TypeVar("Result")


class UndefinedMetricWarning(UserWarning):
    """A metric has no value on this input and is nan; the message says why."""


def undefined(names: Iterable[str], reason: str, depth: int = 1) -> dict[str, float]:
    """Return nan for each name, and warn at the caller of the public function, `depth` calls above this one."""
    names = list(names)
    warnings.warn(f"{', '.join(names)} undefined: {reason}", UndefinedMetricWarning, stacklevel=depth + 2)
    return dict.fromkeys(names, float("nan"))


def check_images(scores: Any, labels: Any) -> tuple[Array, Array]:
    """Return scores [N] in their native dtype and labels [N] as bool, N > 0.

    Raises ValueError for other shapes, and naming the first image with a score that is not finite or another label than
    0 and 1.
    """
    scores, labels = to_native(to_numpy(scores)), to_numpy(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape} and labels {labels.shape}; both must be [N]")
    if not len(scores):
        raise ValueError("no image: scores and labels are empty")
    for wrong, name, values, allowed in (
        (~np.isfinite(scores), "score", scores, "scores must be finite"),
        ((labels != 0) & (labels != 1), "label", labels, "labels must be 0 (normal) or 1 (anomalous)"),
    ):
        if wrong.any():
            first = np.argmax(wrong)
            raise ValueError(f"the {name} of image {first} is {values[first]}; {allowed}")
    return scores, labels.astype(bool)


def check_map(index: int, scores: Any, mask: Any) -> tuple[Pixels, Array]:
    """Return one image's scores [H, W] in a native dtype, and its mask [H, W] as a bool array.

    Raises ValueError naming the image for shapes that differ, are not [H, W] or empty, for a mask with something else
    than numbers, and for a score that is not finite (with its row and column).
    """
    scores, mask = to_native(scores), to_numpy(mask)
    if scores.ndim != 2 or scores.shape != mask.shape or not mask.size:
        shapes = f"map {tuple(scores.shape)} and mask {mask.shape}"
        raise ValueError(f"image {index}: {shapes}; both must be [H, W], not empty")
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
        raise ValueError(f"image {index}: the mask ({mask.dtype}) holds something that is not a number")
    finite = array_module(scores).isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~to_numpy(finite))[0]
        value = float(scores[row, column])
        raise ValueError(f"image {index}: score {value} at row {row}, column {column}; it must be finite")
    return scores, mask != 0


def check_image(index: int, scores: Any, mask: Any, ignored: Any = None) -> tuple[Pixels, Array, Array | None]:
    """Return scores and mask as `check_map` does, the mask without ignored pixels, and these; None where there is none.

    ignored: bool [H, W], or None.  Raises ValueError as `check_map` does, and for ignored pixels that are not bool of
    the same shape.
    """
    scores, mask = check_map(index, scores, mask)
    if ignored is None or not (found := as_ignored(index, ignored, mask.shape)).any():
        return scores, mask, None
    return scores, mask & ~found, found


def as_ignored(index: int, ignored: Any, shape: tuple[int, ...]) -> Array:
    """Return the ignored pixels of one image as an array.  Raises ValueError unless it is bool of this shape."""
    found = to_numpy(ignored)
    if found.dtype != bool or found.shape != shape:
        what = f"the ignored pixels are {found.dtype} {list(found.shape)}"
        raise ValueError(f"image {index}: {what}; bool {list(shape)} is needed")
    return found


def check_lengths(maps: Sized, masks: Sized, ignored: Sized | None = None) -> None:
    """Raise ValueError unless there are as many maps as masks, and at least one; and as many of `ignored`, if given."""
    if len(maps) != len(masks) or not len(maps):
        raise ValueError(f"{len(maps)} maps and {len(masks)} masks; as many of both are needed, and at least one")
    if ignored is not None and len(ignored) != len(maps):
        raise ValueError(f"{len(maps)} maps and ignored pixels of {len(ignored)} images; as many of both are needed")


def of_image(ignored: Sequence[Pixels] | Pixels | None, index: int) -> Pixels | None:
    """Return the ignored pixels of one image; None where nothing is ignored."""
    return None if ignored is None else ignored[index]


def check_limits(fpr_limits: Sequence[float]) -> dict[str, float]:
    """Return {"aupro_0.3": 0.3, ...}.  Raises ValueError for a limit outside (0, 1]."""
    for limit in fpr_limits:
        if not 0 < limit <= 1:
            raise ValueError(f"fpr_limits: {limit} is outside (0, 1]")
    return {f"aupro_{limit:g}": float(limit) for limit in fpr_limits}


def array_module(scores: Pixels) -> Any:
    """Return torch for a tensor, NumPy for anything else."""
    if hasattr(scores, "detach"):
        import torch

        return torch
    return np


def to_native(scores: Any) -> Pixels:
    """Return the scores in a dtype that NumPy is fast with, float16 as float32.  Raises ValueError: not real."""
    if not hasattr(scores, "detach"):
        scores = np.asarray(scores)
        return scores if scores.dtype in FAST else scores.astype(real_dtype([scores]), copy=False)
    if scores.is_complex():
        raise ValueError(f"scores of type {scores.dtype}; real numbers are needed")
    small = scores.is_floating_point() and scores.element_size() < 4
    return scores.detach().float() if small else scores.detach()


def to_numpy(array: Any) -> Array:
    """Return a NumPy array of a tensor, an array or a nested list."""
    return np.asarray(to_native(array).cpu().numpy() if hasattr(array, "detach") else array)


def real_dtype(arrays: Iterable[Array]) -> np.dtype[Any]:
    """Return the native dtype that holds the scores of all `arrays` as they are, float16 as float32, bool as uint8.

    Raises ValueError for anything but real numbers.
    """
    dtype = np.result_type(*{array.dtype for array in arrays})
    if dtype.kind not in "biuf":
        raise ValueError(f"scores of type {dtype}; real numbers are needed")
    return np.dtype({"float16": "float32", "bool": "uint8"}.get(dtype.name, dtype.name))


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield `function` of each item, in their order; one thread means this one."""
    if threads == 1:
        yield from map(function, items)
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, items)
