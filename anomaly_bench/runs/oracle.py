"""`oracle`: the best of several states of a training, chosen on test images as some authors' code does; no result."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from anomaly_bench import metrics
from anomaly_bench.config import Settings
from anomaly_bench.console import track
from anomaly_bench.contracts import Method
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.scoring import Scored


def measure_oracle(folder: RunFolder, settings: Settings, method: Method, images: ImageSet, scratch: Path) -> None:
    """Measure the method's `oracle_candidates`, and write the best one's name and metrics to the manifest's `oracle`.

    The largest image AUROC counts, of equal ones the largest pixel AUROC.  Writes nothing where the method has no
    candidates, or the test images are of one class only.
    """
    labels = np.array([record.label for record in images.records])
    method.eval()
    with torch.inference_mode():
        candidates = method.oracle_candidates(images[0]["image"][None].to(method.device))
        if not candidates or labels.all() or not labels.any():
            return
        scored = _scored(method, images, scratch, None)
        values = {name: metrics.image_metrics(each.scores, labels)["image_auroc"] for name, each in scored.items()}
        best = _scored(method, images, scratch, {name for name in values if values[name] == max(values.values())})
    measured = {
        name: metrics.measure(
            *(each.scores, labels, each.maps, images.masks),
            memory_mb=settings.hardware.metrics_memory_mb,
            resamples=0,
            threads=settings.hardware.threads or 1,
            track=track,
        ).metrics
        for name, each in best.items()
    }
    chosen = max(measured, key=lambda name: measured[name].get("pixel_auroc", 0.0))  # nan where no pixel is anomalous
    folder.update(oracle={"state": chosen, "of": len(scored), "metrics": measured[chosen]})


def _scored(method: Method, images: ImageSet, scratch: Path, names: Collection[str] | None) -> dict[str, Scored]:
    """Score the test images with the candidates of these names, maps included; None: with all, without their maps."""
    scored: dict[str, Scored] = {}
    start = 0
    for batch in track(DataLoader(images, batch_size=method.batch_size), "scoring for `oracle`"):
        for name, scores_of in method.oracle_candidates(batch["image"].to(method.device)).items():
            if names is None or name in names:
                each = scored.setdefault(name, Scored(len(images), scratch / f"maps_oracle_{name}.npy"))
                each.add(start, scores_of() if names else scores_of()._replace(map=None), batch["path"])
        start += len(batch["path"])
    return scored
