"""The maps of any program, in files, against the masks of a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.evaluation.match_masks import Pair, match
from anomaly_bench.evaluation.measured import measure_with_progress, print_json, progress, warnings_in_lines
from anomaly_bench.evaluation.options import MEMORY_MB, RESAMPLES, EvalOptions
from anomaly_bench.loading.anomaly_maps import OneByOne, mask_shape, read_map, read_mask_for
from anomaly_bench.metrics import Measurement

Show = Callable[[dict[str, Measurement], list[str]], None]


def eval_maps(maps: Path, masks: Path, options: EvalOptions, show: Show) -> None:
    """Measure the maps of every category below a folder.  show: prints them, and lines about them.

    Raises UserError for a file that is missing, too many or not usable (`match`, `read_map`).
    """
    with warnings_in_lines():
        categories = match(maps, masks)
    found = {category: measure_files(category, pairs, options) for category, pairs in categories.items()}
    if options.json:
        print_json(found)
        return
    bad = {category: sum(pair.kind != "good" for pair in pairs) for category, pairs in categories.items()}
    lines = [f"{name}: {len(pairs)} maps, {bad[name]} of anomalous images" for name, pairs in categories.items()]
    show(found, [*lines, "score of an image: the largest value of its map; normal: kind 'good'"])


def measure_files(category: str, pairs: list[Pair], options: EvalOptions) -> Measurement:
    """The metrics of one category.  Each file is read anew whenever its image is needed."""
    scores, shapes, resize = np.empty(len(pairs)), [], options.resize_masks
    for i in progress()(range(len(pairs)), f"reading {category}"):
        scores[i], shape = _glance(pairs[i], resize)
        shapes.append(shape)
    maps, empty = OneByOne(len(pairs), lambda i: read_map(pairs[i].map)), set[Path]()
    masks = OneByOne(len(pairs), lambda i: _mask(pairs[i], shapes[i], resize, empty))
    found = measure_with_progress(
        *(category, scores, np.array([pair.kind != "good" for pair in pairs]), maps, masks),
        memory_mb=MEMORY_MB if options.memory_mb is None else options.memory_mb,
        resamples=RESAMPLES if options.resamples is None else options.resamples,
        threads=options.threads,
    )
    with warnings_in_lines(f"{category}: "):
        if empty:
            text = f"{len(empty)} anomalous images have an empty mask (first: {min(empty)}); "
            warnings.warn(text + "they count as anomalous images without an anomalous pixel", stacklevel=1)
    return found


def _glance(pair: Pair, resize: bool) -> tuple[float, tuple[int, int]]:
    """The largest value of a map, and its H, W, which the mask's must fit."""
    scores = read_map(pair.map)
    height, width = scores.shape
    if pair.mask is not None:
        mask_shape(pair.mask, (height, width), resize)
    return float(scores.max()), (height, width)


def _mask(pair: Pair, shape: tuple[int, int], resize: bool, empty: set[Path]) -> np.ndarray:
    """empty: gets the masks of anomalous images that mark nothing."""
    if pair.mask is None:
        return np.zeros(shape, bool)
    mask = read_mask_for(pair.mask, shape, resize)
    if pair.kind == "good" and mask.any():
        raise UserError(str(pair.mask), "marks a defect in an image of kind 'good'")
    if pair.kind != "good" and not mask.any():
        empty.add(pair.mask)
    return mask
