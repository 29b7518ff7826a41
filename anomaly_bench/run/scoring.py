"""Score the test images, measure the scores, store both."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from anomaly_bench import metrics
from anomaly_bench.config import Settings
from anomaly_bench.contracts import Method, Sample
from anomaly_bench.data.loading import ImageSet
from anomaly_bench.errors import UserError
from anomaly_bench.report.figures import write_heatmaps
from anomaly_bench.run.fit import peak_memory_mb, reset_peak_memory
from anomaly_bench.store import RunFolder, ScoreRow, unwritable


def score(folder: RunFolder, method: Method, images: ImageSet, scratch: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Image scores [N] and maps [N, H, W] (on disk, in `scratch`; None where the method has none) of the test
    images.
    """
    reset_peak_memory()
    began, n, at = time.monotonic(), len(images), 0
    scores, maps = np.empty(n, np.float32), None
    console = Console(stderr=True)
    loader = DataLoader(images, batch_size=method.batch_size)
    bar = track(loader, "scoring", console=console, transient=True, disable=not console.is_terminal)
    method.eval()
    with torch.inference_mode():
        for batch in bar:
            image_scores, image_maps = method.score(batch["image"].to(method.device))
            b = slice(at, at := at + len(image_scores))
            scores[b] = image_scores.float().cpu().numpy()
            refuse_not_finite(scores[b], batch["path"])
            if image_maps is not None:
                maps = open_maps(scratch, (n, *image_maps.shape[-2:])) if maps is None else maps
                maps[b] = image_maps.float().cpu().numpy()
                refuse_not_finite(maps[b].sum((1, 2)), batch["path"])
    seconds = time.monotonic() - began
    spent = {"seconds": round(seconds, 3), "ms_per_image": round(1000 * seconds / n, 3)}
    folder.update(stages={"score": {**spent, "peak_memory_mb": peak_memory_mb()}})
    return scores, maps


def open_maps(scratch: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array on disk whose space is taken now if possible: a full disk is then an error, not a crash later."""
    file = scratch / "maps.npy"
    try:
        maps: np.ndarray = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with file.open("r+b") as descriptor:
                os.posix_fallocate(descriptor.fileno(), 0, file.stat().st_size)
    except OSError as error:
        raise unwritable(scratch.parent / "maps.npy", error) from error
    return maps


def refuse_not_finite(values: np.ndarray, paths: list[str]) -> None:
    """Raises UserError naming the first image whose value is NaN or infinite."""
    for path, ok in zip(paths, np.isfinite(values), strict=True):
        if not ok:
            raise UserError(
                path, "its score is not finite", "the training diverged? see training.csv in the run folder"
            )


def measure(
    folder: RunFolder, settings: Settings, images: ImageSet, scores: np.ndarray, maps: np.ndarray | None
) -> None:
    """scores.csv, maps.npy, the pictures, and the metrics last."""
    records, hardware = images.records, settings.hardware
    labels, console = np.array([r.label for r in records]), Console(stderr=True)
    measured = metrics.measure(
        scores,
        labels,
        maps,
        images.masks,
        memory_mb=hardware.metrics_memory_mb,
        resamples=settings.resamples,
        threads=hardware.threads or 1,
        track=partial(track, console=console, transient=True, disable=not console.is_terminal),
    )
    folder.write_scores(ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(records, scores, strict=True))
    if maps is not None and settings.save_maps:
        folder.write_maps(maps)
    if maps is not None and settings.save_heatmaps:
        write_heatmaps(folder.path, folder.scores, maps, lambda i: pixels(images[i]))
    folder.update(measurement=measured.record())
    folder.write_metrics(measured.metrics)


def pixels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and bool [H, W], as they are in the cache."""
    image = (sample["image"] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return image.numpy(), sample["mask"].numpy()
