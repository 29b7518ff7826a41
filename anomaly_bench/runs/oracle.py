"""`oracle`: the best of several states of a training, chosen on test images as some authors' code does; no result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_bench import metrics
from anomaly_bench.config import Settings
from anomaly_bench.console import track
from anomaly_bench.contracts import Method, Scores, Size
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.scoring import Scored
from anomaly_bench.runs.whole_images import View, restored, score_whole


def measure_oracle(
    folder: RunFolder, settings: Settings, method: Method, images: ImageSet, scratch: Path, view: View
) -> None:
    """Measure the method's `oracle_candidates`, and write the best one's name and metrics to the manifest's `oracle`.

    The largest image AUROC counts, of equal ones the largest pixel AUROC.  Writes nothing where the method has no
    candidates, or the test images are of one class only.
    """
    labels = np.array([record.label for record in images.records])
    method.eval()
    with torch.inference_mode():
        seen = images[0]["image"][None, :, : view.seen[0], : view.seen[1]]
        candidates = method.oracle_candidates(seen.to(method.device))
        if not candidates or labels.all() or not labels.any():
            return
        scored = _scored(method, images, scratch, None, view)
        values = {name: metrics.image_metrics(each.scores, labels)["image_auroc"] for name, each in scored.items()}
        best = _scored(method, images, scratch, {name for name in values if values[name] == max(values.values())}, view)
    measured = {
        name: metrics.measure(
            *(each.scores, labels, each.maps, images.masks, images.ignored),
            memory_mb=settings.hardware.metrics_memory_mb,
            resamples=0,
            threads=settings.hardware.threads or 1,
            track=track,
        ).metrics
        for name, each in best.items()
    }
    chosen = max(measured, key=lambda name: measured[name].get("pixel_auroc", 0.0))  # nan where no pixel is anomalous
    folder.update(oracle={"state": chosen, "of": len(scored), "metrics": measured[chosen]})


def _scored(
    method: Method, images: ImageSet, scratch: Path, names: Collection[str] | None, view: View
) -> dict[str, Scored]:
    """Score the test images with the candidates of these names, maps included; None: with all, without their maps."""
    scored: dict[str, Scored] = {}
    start = 0
    for batch in track(DataLoader(images, batch_size=method.batch_size), "scoring for `oracle`"):
        shapes = [images.shape(i) for i in range(start, start + len(batch["path"]))]
        for name, found in _candidates(method, view, batch["image"].to(method.device), shapes, names).items():
            each = scored.setdefault(name, Scored(len(images), scratch / f"maps_oracle_{name}.npy"))
            each.add(start, found if names else found._replace(map=None), batch["path"])
        start += len(batch["path"])
    return scored


def _candidates(
    method: Method, view: View, images: Tensor, shapes: Sequence[Size], names: Collection[str] | None
) -> Mapping[str, Scores]:
    """Return what the candidates of these names, or all, say of whole images [B, 3, H, W]."""
    found: dict[str, Scores] = {}

    def say(name: str, seen: Tensor) -> Scores:
        return method.oracle_candidates(seen)[name]()

    if view.tiling is None:
        for name, scores_of in method.oracle_candidates(images).items():
            if not names or name in names:
                found[name] = restored(scores_of(), view.frame, shapes)
        return found
    for name in names or method.oracle_candidates(images[:1, :, : view.seen[0], : view.seen[1]]):
        found[name] = score_whole(view, partial(say, name), images, shapes, method.batch_size)
    return found
