"""Scoring: the method scores the test images, the scores are measured, both are stored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_bench import metrics
from anomaly_bench.config import Settings
from anomaly_bench.console import track
from anomaly_bench.contracts import Method, Scores
from anomaly_bench.errors import UserError, check_name
from anomaly_bench.files import unwritable
from anomaly_bench.loading.anomaly_maps import LazySequence, lazy_rows, map_at_source
from anomaly_bench.loading.device_loader import ahead, device_loader
from anomaly_bench.loading.image_cache import at_source
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.calibration import CalibrationRow, peak
from anomaly_bench.runs.fit import peak_memory_mb, reset_peak_memory
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.heatmaps import write_heatmaps
from anomaly_bench.runs.precision import scoring
from anomaly_bench.runs.progress import Progress
from anomaly_bench.runs.spro import spro_of_records
from anomaly_bench.runs.stored_run import ScoreRow
from anomaly_bench.runs.whole_images import View, score_whole


class Scored:
    """Collects image scores [N] and maps [N, H, W], which are in `file`; None where the method gives none."""

    def __init__(self, images: int, file: Path) -> None:
        self.scores, self.file = np.empty(images, np.float32), file
        self.maps: LazySequence | None = None
        self._begin = 0  # of the first map in the file

    def add(self, start: int, scores: Scores, paths: list[str]) -> None:
        """Add a batch from index `start` on.  Raises UserError naming an image whose score or map is not finite."""
        batch = slice(start, start + len(paths))
        self.scores[batch] = scores.image.float().cpu().numpy()
        refuse_not_finite(self.scores[batch], paths)
        if scores.map is not None:
            if self.maps is None:
                empty = open_maps(self.file, (len(self.scores), *scores.map.shape[-2:]))
                self.maps, self._begin = lazy_rows(empty), empty.offset
            maps = np.ascontiguousarray(scores.map.float().cpu().numpy())
            refuse_not_finite(maps, paths)
            with self.file.open("r+b") as file:
                file.seek(self._begin + start * maps[0].nbytes)
                maps.tofile(file)


def score(
    folder: RunFolder, method: Method, images: ImageSet, scratch: Path, view: View, workers: int
) -> dict[str, Scored]:
    """Score the test images, which `workers` processes read ahead.

    Returns the scores under the name "", and those of the components under their names.
    """
    reset_peak_memory()
    began = time.monotonic()
    scored = score_images(method, images, scratch, view, workers, Progress(folder.path, "score"))
    seconds = time.monotonic() - began
    costs = {"seconds": round(seconds, 3), "ms_per_image": round(1000 * seconds / len(images), 3)}
    folder.update(stages={"score": {**costs, "peak_memory_mb": peak_memory_mb()}})
    return scored


def score_images(
    method: Method, images: ImageSet, scratch: Path, view: View, workers: int, progress: Progress
) -> dict[str, Scored]:
    """Return what `score` does; maps are files in `scratch`.  progress: told how many images are scored."""
    start, scored = 0, dict[str, Scored]()
    loader = device_loader(images, method.batch_size, method.device, workers)
    method.eval()
    with torch.inference_mode():
        for batch in track(loader if workers else ahead(loader), "scoring", len(loader)):
            progress.tell(start, len(images))
            scores = score_batch(method, images, batch, start, view)
            by_name = {"": scores, **(scores.components or {})}
            kinds = {name: each.map is not None for name, each in by_name.items()}
            if start and kinds != {name: known.maps is not None for name, known in scored.items()}:
                what = "gives maps or components for some batches, and none for others"
                raise UserError(f"{type(method).__qualname__}.score", what)
            for name, each in by_name.items():
                if name not in scored:
                    scored[name] = Scored(len(images), scratch / f"maps_{name}.npy")
                scored[name].add(start, each, batch["path"])
            start += len(batch["path"])
    return scored


def score_batch(method: Method, images: ImageSet, batch: Mapping[str, Any], start: int, view: View) -> Scores:
    """Return the checked scores of a batch of whole images.  start: the index of its first one."""

    def score_seen(seen: Tensor) -> Scores:
        with scoring(method):
            return checked(method, method.score(seen), seen.shape)

    shapes = [images.shape(i) for i in range(start, start + len(batch["path"]))]
    return score_whole(view, score_seen, batch["image"], shapes, method.batch_size)


def calibration_rows(method: Method, images: ImageSet, source: str, view: View, workers: int) -> list[CalibrationRow]:
    """Score normal images that were held out.  source: where they come from, for the record."""
    rows: list[CalibrationRow] = []
    method.eval()
    with torch.inference_mode():
        loader = device_loader(images, method.batch_size, method.device, workers)
        for batch in track(loader if workers else ahead(loader), f"scoring normal images, {source}", len(loader)):
            scores = score_batch(method, images, batch, len(rows), view)
            rows += rows_of_normals(scores, batch["path"], source, images.frame.ignored_region)
    return rows


def rows_of_normals(
    scores: Scores, paths: list[str], source: str, ignored: np.ndarray | None = None
) -> list[CalibrationRow]:
    """Return a row for each image of a batch.  Raises UserError naming one whose score or map is not finite.

    ignored: bool [H, W], not all of it: pixels of each map that do not count.
    """
    values = scores.image.float().cpu().numpy()
    refuse_not_finite(values, paths)
    if scores.map is None:
        return [CalibrationRow(path, source, float(value), None) for path, value in zip(paths, values, strict=True)]
    maps = scores.map.float().cpu().numpy()
    refuse_not_finite(maps, paths)
    peaks = [peak(values, ignored) for values in maps]
    return [
        CalibrationRow(path, source, float(value), float(highest))
        for path, value, highest in zip(paths, values, peaks, strict=True)
    ]


def checked(method: Method, scores: Scores, shape: torch.Size) -> Scores:
    """Return what a method's `score` returned.  Raises UserError unless it fits images of this shape, [B, 3, H, W]."""
    where = f"{type(method).__qualname__}.score"
    components = getattr(scores, "components", None) or {}
    if not isinstance(components, Mapping):
        raise UserError(where, f"`components` is {type(components).__name__}; a mapping of names to Scores is needed")
    for name in components:
        check_name(f"{where}, name of a component", name)
    for name, each in {"": scores, **components}.items():
        at = where + (f", component '{name}'" if name else "")
        if not isinstance(each, Scores):
            raise UserError(at, f"returned {type(each).__name__}; Scores(image=[B], map=[B, H, W] or None) is needed")
        if name and each.components:
            raise UserError(at, "has components itself; one level of components is measured")
        _check_tensor(at, "image", each.image, shape, shape[:1])
        if each.map is not None:
            _check_tensor(at, "map", each.map, shape, (shape[0], *shape[2:]))
    return scores


def _check_tensor(where: str, name: str, value: object, images: torch.Size, shape: Sequence[int]) -> None:
    """Raises UserError unless a value can be stored as float32 of this shape."""
    if not isinstance(value, torch.Tensor) or tuple(value.shape) != tuple(shape):
        found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(where, f"`{name}` is {found} for images {list(images)}; {list(shape)} is needed")
    if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
        kind = ", ".join(str(each).removeprefix("torch.") for each in (value.dtype, value.layout, value.device))
        raise UserError(where, f"`{name}` is a tensor of {kind}; floating-point numbers in memory are needed")


def open_maps(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a float32 array on disk whose space is reserved, if possible: a full disk is an error, no later crash."""
    try:
        maps: np.memmap = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with file.open("r+b") as descriptor:
                os.posix_fallocate(descriptor.fileno(), 0, file.stat().st_size)
    except OSError as error:
        raise unwritable(file.parent.parent / "maps.npy", error) from error
    return maps


def refuse_not_finite(values: np.ndarray, paths: list[str]) -> None:
    """Raises UserError naming the first image with a value that is NaN or infinite.  values: [B, ...]."""
    for path, ok in zip(paths, np.isfinite(values).reshape(len(values), -1).all(1), strict=True):
        if not ok:
            hint = "did the training diverge? see training.csv in the run folder"
            raise UserError(path, "its score is not finite as float32", hint)


def measure(folder: RunFolder, settings: Settings, images: ImageSet, scored: dict[str, Scored]) -> None:
    """Measure the scores; write scores.csv, maps.npy, the manifest's entry, curves, and the metrics last."""
    records = images.records
    measured = {
        name: measured_scores(settings, images, each, 0 if name else settings.resamples)
        for name, each in scored.items()
    }
    scores, maps, found = scored[""].scores, scored[""].maps, measured.pop("")
    found.metrics.update(
        spro_of_records(records, maps, images.frame, settings.hardware.threads or torch.get_num_threads())
    )
    folder.write_scores(ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(records, scores, strict=True))
    if maps is not None and settings.save_maps == "float16":
        folder.write_maps(maps, rounded=True)
    elif maps is not None and settings.save_maps:
        scored[""].maps = lazy_rows(folder.take_maps(scored[""].file))
    folder.update(measurement=found.record(), parts={name: each.metrics for name, each in measured.items()})
    folder.write_text("curves.json", json.dumps(found.curves))
    folder.write_metrics(found.metrics)


def measured_scores(settings: Settings, images: ImageSet, scored: Scored, resamples: int) -> metrics.Measurement:
    """Return the metrics of scores and maps.  resamples: for intervals; 0: none."""
    labels = np.array([record.label for record in images.records])
    return metrics.measure(
        *(scored.scores, labels, scored.maps, images.masks, images.ignored),
        memory_mb=settings.hardware.metrics_memory_mb,
        resamples=resamples,
        threads=settings.hardware.threads or torch.get_num_threads(),
        track=track,
    )


def draw_heatmaps(
    folder: RunFolder, images: ImageSet, maps: Sequence[np.ndarray] | None, save: bool | int | str
) -> None:
    """Draw the heat maps at the size of the maps, or each at that of its image; none without maps.

    save: `save_heatmaps`.
    """
    if maps is None or save is False:
        return
    frame, at_sources = images.frame, save == "source"
    load = (
        (lambda i: at_source(images.records[i], frame))
        if at_sources
        else (lambda i: (images.picture(i), images[i]["mask"].numpy()))
    )
    write_heatmaps(
        *(folder.path, folder.scores, maps, load, images.ignored),
        at_source=(lambda i, size: map_at_source(maps[i], frame, size)) if at_sources else None,
        most=save if isinstance(save, int) and save is not True else None,
        masks=images.masks is not None,
        threshold=folder.manifest.get("thresholds", {}).get("image"),
    )
