"""Scoring: the method scores the test images, the scores are measured, both are stored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from anomaly_bench import metrics
from anomaly_bench.config import Settings
from anomaly_bench.console import track
from anomaly_bench.contracts import Method, Sample, Scores
from anomaly_bench.errors import UserError, check_name
from anomaly_bench.files import unwritable
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.fit import peak_memory_mb, reset_peak_memory
from anomaly_bench.runs.folder import RunFolder, ScoreRow
from anomaly_bench.runs.heatmaps import write_heatmaps


class Scored:
    """Collects image scores [N] and maps [N, H, W], which are on disk in `file`; None where the method gives none."""

    def __init__(self, images: int, file: Path) -> None:
        self.scores, self.file = np.empty(images, np.float32), file
        self.maps: np.ndarray | None = None

    def add(self, start: int, scores: Scores, paths: list[str]) -> None:
        """Add a batch from index `start` on.  Raises UserError naming an image whose score or map is not finite."""
        batch = slice(start, start + len(paths))
        self.scores[batch] = scores.image.float().cpu().numpy()
        refuse_not_finite(self.scores[batch], paths)
        if scores.map is not None:
            if self.maps is None:
                self.maps = open_maps(self.file, (len(self.scores), *scores.map.shape[-2:]))
            self.maps[batch] = scores.map.float().cpu().numpy()
            refuse_not_finite(self.maps[batch], paths)


def score(folder: RunFolder, method: Method, images: ImageSet, scratch: Path) -> dict[str, Scored]:
    """The test images' scores, under the name ""; and those that the method names as their components."""
    reset_peak_memory()
    began, n, at = time.monotonic(), len(images), 0
    scored: dict[str, Scored] = {}
    loader = DataLoader(images, batch_size=method.batch_size)
    method.eval()
    with torch.inference_mode():
        for batch in track(loader, "scoring"):
            scores = checked(method, method.score(batch["image"].to(method.device)), batch["image"].shape)
            given = {"": scores, **(scores.components or {})}
            kinds = {name: each.map is not None for name, each in given.items()}
            if at and kinds != {name: known.maps is not None for name, known in scored.items()}:
                what = "gives maps or components for some batches, and none for others"
                raise UserError(f"{type(method).__qualname__}.score", what)
            for name, each in given.items():
                if name not in scored:
                    scored[name] = Scored(n, scratch / f"maps_{name}.npy")
                scored[name].add(at, each, batch["path"])
            at += len(batch["path"])
    seconds = time.monotonic() - began
    spent = {"seconds": round(seconds, 3), "ms_per_image": round(1000 * seconds / n, 3)}
    folder.update(stages={"score": {**spent, "peak_memory_mb": peak_memory_mb()}})
    return scored


def checked(method: Method, scores: Scores, shape: torch.Size) -> Scores:
    """What a method's `score` returned.  shape: of the images [B, 3, H, W].  Raises UserError for anything else."""
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


def _check_tensor(where: str, name: str, given: object, images: torch.Size, wanted: Sequence[int]) -> None:
    """Raises UserError unless what is `given` can be stored as float32 of the shape `wanted`."""
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != tuple(wanted):
        found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise UserError(where, f"`{name}` is {found} for images {list(images)}; {list(wanted)} is needed")
    if not given.is_floating_point() or given.layout != torch.strided or given.is_meta:
        kind = ", ".join(str(each).removeprefix("torch.") for each in (given.dtype, given.layout, given.device))
        raise UserError(where, f"`{name}` is a tensor of {kind}; floating-point numbers in memory are needed")


def open_maps(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 array on disk whose space is reserved, if possible: a full disk is an error, no later crash."""
    try:
        maps: np.ndarray = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
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
    """scores.csv, maps.npy, the pictures, the components' metrics in the manifest, and the metrics last."""
    records, hardware = images.records, settings.hardware
    labels = np.array([r.label for r in records])
    scores, maps = scored[""].scores, scored[""].maps
    measured, *components = (
        metrics.measure(
            one.scores,
            labels,
            one.maps,
            images.masks,
            memory_mb=hardware.metrics_memory_mb,
            resamples=0 if name else settings.resamples,
            threads=hardware.threads or 1,
            track=track,
        )
        for name, one in scored.items()
    )
    folder.write_scores(ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(records, scores, strict=True))
    if maps is not None and settings.save_maps:
        folder.write_maps(maps)
    if maps is not None and settings.save_heatmaps:
        write_heatmaps(folder.path, folder.scores, maps, lambda i: pixels(images[i]))
    named = zip([name for name in scored if name], components, strict=True)
    folder.update(
        measurement=measured.record(),
        parts={name: m.metrics for name, m in named},
    )
    folder.write_text("curves.json", json.dumps(measured.curves))
    folder.write_metrics(measured.metrics)


def pixels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 [H, W, 3] and mask bool [H, W], as they are in the cache."""
    image = (sample["image"] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return image.numpy(), sample["mask"].numpy()
