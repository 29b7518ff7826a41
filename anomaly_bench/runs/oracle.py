"""`track_test`: the test images' scores at points of a training, and what choosing the best point on them would report.

No result depends on it: a training only keeps its states, and they are scored once the run's own files are written.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from anomaly_bench.config import Settings
from anomaly_bench.contracts import Method, NormalData, Stage
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.fit import checkpoint_path, load_fitted, stages_of, to_memory_format, write_weights
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.json_files import strict
from anomaly_bench.runs.progress import Progress
from anomaly_bench.runs.scoring import measured_scores, score_images
from anomaly_bench.runs.stored_run import TRACK
from anomaly_bench.runs.whole_images import View

log = logging.getLogger("anomaly_bench")


class KeepPoints(Callback):
    """Writes the state of a stage at evenly spaced points of its training, as `load_fitted` reads it.

    Points are epochs, or steps where the training is that long.  The end is none of them: the run itself has it.
    """

    def __init__(self, stage: Stage, folder: Path, count: int) -> None:
        self.unit, last = length(stage)
        self.times, self.folder = spaced(last, count) - {last}, points_folder(folder, stage)
        for other in set(folder.glob("checkpoints/*/points")) - {self.folder}:  # only the last stage's are scored
            shutil.rmtree(other)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the state that the step before has left, all that the module does after a step included."""
        if self.unit == "step":
            self._keep(trainer, pl_module, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state before the epoch's checkpoint, so that a resumed training lacks none."""
        self._keep(trainer, pl_module, trainer.global_step if self.unit == "step" else trainer.current_epoch + 1)

    def _keep(self, trainer: Trainer, module: LightningModule, time: int) -> None:
        if time in self.times and trainer.is_global_zero:
            file = self.folder / f"{self.unit}_{time}.ckpt"
            file.unlink(missing_ok=True)  # of an earlier attempt
            write_weights(module, file)


def length(stage: Stage) -> tuple[str, int]:
    """Return in what a stage's training is counted, `epoch` or `step`, and how many there are; 0 where that is open."""
    unit = "step" if "max_steps" in stage.trainer else "epoch"
    return unit, max(0, stage.trainer.get(f"max_{unit}s", 0))


def spaced(last: int, count: int) -> set[int]:
    """Return `count` evenly spaced numbers up to `last`, or all of 1 ... last where there are fewer."""
    return {-(-last * (i + 1) // count) for i in range(count)}


def points_folder(folder: Path, stage: Stage) -> Path:
    """Return where the states of a stage are kept until the run is finished."""
    return checkpoint_path(folder, stage).with_name("points")


def measure_points(
    folder: RunFolder,
    settings: Settings,
    last: Stage,
    build: Callable[[], Method],
    data: NormalData,
    images: ImageSet,
    scratch: Path,
    view: View,
) -> None:
    """Score and measure the test images with the states that the last stage kept; write test_track.json and `oracle`.

    build: returns the method as it was before its training, on its device.  The stages before the last count as they
    ended, and what a method computes after its stages is computed for each state anew.  Nothing is written where the
    test images are of one class only.
    """
    if len({record.label for record in images.records}) < 2:
        return
    began, points = time.monotonic(), list[dict[str, Any]]()
    files = sorted(points_folder(folder.path, last).glob("*.ckpt"), key=lambda file: int(file.stem.split("_")[1]))
    for file in files:
        log.info("%s: scoring the test images", file.stem)
        if (method := _restored(file, folder.path, settings, last, build, data)) is None:
            log.warning("%s cannot be used, so this point is left out", file)
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as maps:
            progress = Progress(folder.path, file.stem)
            scored = score_images(method, images, Path(maps), view, settings.hardware.workers, progress)[""]
            found = measured_scores(settings, images, scored, 0).metrics
        points.append({"state": file.stem, "metrics": found, "scores": short(scored.scores)})
    own, (unit, end) = folder.metrics, length(last)
    ended = {name: own[name] for name in (points[0]["metrics"] if points else own)}
    scores = short([row.score for row in folder.scores])
    points.append({"state": f"{unit}_{end}", "metrics": ended, "scores": scores})
    folder.write_text(TRACK, json.dumps(strict({"stage": last.name, "points": points})))
    folder.update(oracle=oracle_of(points))
    log.info("scored at %d points of the training: %.0f s", len(points), time.monotonic() - began)


def short(scores: Iterable[float]) -> list[float]:
    """Return float32 scores with the nine digits that tell each from all others."""
    return [float(f"{score:.9g}") for score in scores]


def _restored(
    file: Path, folder: Path, settings: Settings, last: Stage, build: Callable[[], Method], data: NormalData
) -> Method | None:
    """Return the method as a run would have it whose last stage had ended with the state in `file`; None without it."""
    method, memory_format = build(), settings.hardware.memory_format
    device = method.device
    for stage in stages_of(method, data):
        to_memory_format(stage.module, memory_format)
        if not load_fitted(stage, file if stage.name == last.name else checkpoint_path(folder, stage)):
            return None
        stage.module.to(device)
        seed_everything(settings.seed, verbose=False)  # as after the training
    to_memory_format(method.to(device), memory_format)
    return method


def oracle_of(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the best of the points of a training and its last, for the manifest.

    `state` is the one with the largest image AUROC, of equal ones with the largest pixel AUROC; `best` has the largest
    value of each metric and its state, whichever is chosen by it.
    """

    def value(point: Mapping[str, Any], name: str) -> float:
        found = point["metrics"].get(name, math.nan)
        return -math.inf if math.isnan(found) else found  # nan: no pixel is anomalous

    chosen = max(points, key=lambda point: (value(point, "image_auroc"), value(point, "pixel_auroc")))
    last = points[-1]["metrics"]
    best = {name: max(points, key=lambda point, name=name: value(point, name)) for name in last}  # type: ignore[misc]
    return {
        **{"state": chosen["state"], "of": len(points), "metrics": chosen["metrics"], "last": last},
        "best": {name: {"state": point["state"], "value": point["metrics"][name]} for name, point in best.items()},
    }
