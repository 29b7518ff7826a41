"""Measure maps of any program, in files, against the masks of a data set."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anomaly_bench.console import say, track, warnings_in_lines
from anomaly_bench.errors import UserError
from anomaly_bench.evaluation.foreign import ForeignMethod
from anomaly_bench.evaluation.match_masks import Pair, match
from anomaly_bench.evaluation.measured import measure_with_progress, print_json
from anomaly_bench.evaluation.options import EvalOptions
from anomaly_bench.loading.anomaly_maps import LazySequence, mask_shape, read_map, read_marks_for
from anomaly_bench.loading.decode import ANOMALOUS, IGNORED
from anomaly_bench.metrics import Measurement
from anomaly_bench.runs.calibration import peak

Show = Callable[[dict[str, Measurement], list[str]], None]


def eval_maps(maps: Path, masks: Path, options: EvalOptions, show: Show) -> None:
    """Measure the maps of every category below a folder, and store them as runs of `options.method`, if that is given.

    show: prints them, and lines about them.
    Raises UserError for a file that is missing, too many or not usable (`match`, `read_map`), and for keys that do not
    say where to store them.
    """
    foreign = ForeignMethod.of(options.method, options.overrides) if options.method else None
    with warnings_in_lines():
        categories = match(maps, masks)
    names = foreign.category_of([*categories]) if foreign else {}
    given = ["--maps", str(maps), "--masks", str(masks), "--as", options.method]
    command = shlex.join(["bench", "eval", *given, *(f"{key}={value}" for key, value in options.overrides.items())])
    found, stored = {}, []
    for category, pairs in categories.items():
        scores, found[category] = measure_files(category, pairs, options)
        if foreign:
            stored.append(foreign.store(names[category], pairs, scores, found[category], command))
    if options.json:
        print_json(found)
        return
    lines = [
        f"{category}: {len(pairs)} maps, {sum(pair.kind != 'good' for pair in pairs)} of anomalous images"
        for category, pairs in categories.items()
    ]
    show(found, [*lines, "score of an image: the largest value of its map; normal: kind 'good'", *stored])


def measure_files(category: str, pairs: list[Pair], options: EvalOptions) -> tuple[np.ndarray, Measurement]:
    """Return the image scores [N] and the metrics of one category.  A file is read whenever its image is needed."""
    scores, shapes, value = np.empty(len(pairs)), list[tuple[int, int]](), options.ignore_value
    resize = options.resize_masks

    def marks(i: int) -> np.ndarray:
        file = pairs[i].mask
        return np.zeros(shapes[i], np.uint8) if file is None else read_marks_for(file, shapes[i], resize, value)

    ignored = None if value is None else LazySequence(len(pairs), lambda i: marks(i) == IGNORED)
    for i, pair in enumerate(track(pairs, f"reading {category}")):
        one = read_map(pair.map)
        shapes.append((one.shape[0], one.shape[1]))
        for file in pair.mask_files:
            mask_shape(file, shapes[i], resize)
        others = None if ignored is None else ignored[i]
        scores[i] = one.min() if others is not None and others.all() else peak(one, others)
    maps, empty = LazySequence(len(pairs), lambda i: read_map(pairs[i].map)), set[Path]()
    masks = LazySequence(len(pairs), lambda i: _mask(pairs[i], marks(i), empty))
    labels = np.array([pair.kind != "good" for pair in pairs])
    found = measure_with_progress(category, scores, labels, maps, masks, ignored, **options.measuring())
    if empty:
        text = f"{category}: {len(empty)} anomalous images have an empty mask (first: {min(empty)}); "
        say(text + "they count as anomalous images without an anomalous pixel")
    return scores, found


def _mask(pair: Pair, marks: np.ndarray, empty: set[Path]) -> np.ndarray:
    """Return the mask of a map from its marks; empty: gets the masks of anomalous images that mark nothing."""
    mask: np.ndarray = marks == ANOMALOUS
    if pair.mask is None:
        return mask
    if pair.kind == "good" and mask.any():
        raise UserError(str(pair.mask_files[0]), "marks a defect in an image of kind 'good'")
    if pair.kind != "good" and not mask.any():
        empty.add(pair.mask_files[0])
    return mask
