"""run(cfg) -> RunFolder: seed, build, fit the stages, score, measure, store; an interrupted run goes on."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import seed_everything

from anomaly_bench import config
from anomaly_bench.checksums import remembered
from anomaly_bench.console import size_text
from anomaly_bench.contracts import Method, Record, Size, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_list import list_text
from anomaly_bench.loading.loaders import NormalLoaders, hold_out_calibration, split_val
from anomaly_bench.paths import cache_at
from anomaly_bench.runs.calibration import calibrate_run
from anomaly_bench.runs.confounds import separations, strongest
from anomaly_bench.runs.find import Data, find_run
from anomaly_bench.runs.finished import remember_method
from anomaly_bench.runs.fit import (
    checkpoint_path,
    fit,
    load_fitted,
    peak_memory_mb,
    reset_peak_memory,
    stages_of,
    to_memory_format,
    write_weights,
)
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.ignored import describe_ignored, store_ignore
from anomaly_bench.runs.learning import EXAMPLES, Beginning, beginning, check_learning
from anomaly_bench.runs.loggers import RunLogger, run_loggers
from anomaly_bench.runs.logs import console_log, recorded
from anomaly_bench.runs.manifest import describe, masked, masked_config
from anomaly_bench.runs.oracle import KeepPoints, measure_points
from anomaly_bench.runs.precision import use_tf32, warn_of_slow_precision
from anomaly_bench.runs.scoring import calibration_rows, draw_heatmaps, measure, score
from anomaly_bench.runs.stored_run import IMAGES
from anomaly_bench.runs.weights import store_weights
from anomaly_bench.runs.whole_images import View, view_of

__all__ = ["console_log", "run"]
log = logging.getLogger("anomaly_bench")


def run(cfg: DictConfig, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> RunFolder:
    """Train and measure what a composed configuration describes, or what is left of it.

    overrides, options: what was typed, for the record (`method.lr=0.1`; `--config-dir conf`).  A finished run is
    returned as it is, unless `force`.  Raises UserError for a user error; once the folder exists, its manifest also
    records every failure.
    """
    settings = config.validate(cfg)
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    use_tf32(settings.hardware.tf32)
    with cache_at(settings.cache_dir):
        with remembered():
            plan = find_run(settings, fetch=True)
            remember_method(cfg, settings)
        folder = plan.folder
        if plan.state == "done":
            folder.clear_leftovers()
            log.info("already done: %s%s", folder.path, f" ({plan.note})" if plan.note else "")
            if settings.points and "oracle" not in (manifest := folder.manifest) and "fit" not in manifest["stages"]:
                log.warning("it was trained without track_test; force=true trains it anew with it")
            return folder
        method, view = method_and_view(settings, plan.data.train)
        require_space(folder.path, method, len(plan.data.test) * math.prod(view.frame.size), settings.points)
        splits = split(plan.data, method, settings)
        with folder.locked():
            if folder.status != "done" or settings.force:  # another process may have finished it just now
                log.info("%s: %s", settings.dataset["name"], plan.data)
                manifest = describe(settings, plan, [*options, *overrides], method, splits, view)
                folder.start(manifest, masked_config(cfg), map(masked, overrides), afresh=settings.force)
                folder.write_text(IMAGES, list_text(plan.data.entries))
                store_ignore(folder, view.frame.ignore)
                with recorded(folder):
                    execute(folder, settings, method, splits, view)
    return folder


def method_and_view(settings: config.Settings, training: Sequence[Record]) -> tuple[Method, View]:
    """Return the method on its device, and how images come to it; `dataset.fit: aspect` changes the method's size."""
    device = pick_device(settings.hardware)
    warn_of_slow_precision(settings.hardware, device)
    method = built(settings, device)
    view = view_of(settings.images, method, training)
    return (method if view.seen == as_size(method.image_size) else built(settings, device, image_size=view.seen)), view


def built(settings: config.Settings, device: torch.device, **changed: Size | int) -> Method:
    """Return the method with the first weights that the seed draws.  changed: arguments that are not the settings'."""
    seed_everything(settings.seed, verbose=False)
    method: Method = config.build("method", {**settings.method, **changed})
    require_contract(method)
    method.scoring_precision = settings.hardware.scoring_precision
    return method.to(device)


def split(data: Data, method: Method, settings: config.Settings) -> dict[str, list[Record]]:
    """Return the images by what they are for; `val` is the method's, a threshold is calibrated on the next two."""
    share, fold = settings.calibration_share, settings.calibration_fold
    normal, held_out = hold_out_calibration(data.train, share, fold, settings.seed)
    train, val = split_val(normal, method.val_share, settings.seed)
    return {"train": train, "val": val, "held out": held_out, "validation": data.validation, "test": data.test}


def execute(
    folder: RunFolder, settings: config.Settings, method: Method, splits: dict[str, list[Record]], view: View
) -> None:
    """Fit the stages that are not fitted yet, then score, measure and store."""
    hardware, frame, cache = settings.hardware, view.frame, settings.cache_dir
    workers, devices = hardware.workers, count_devices(hardware)
    data = NormalLoaders(
        *(splits["train"], splits["val"], frame, cache, workers, settings.seed, devices),
        tiling=view.tiling,
        device=torch.device(method.device.type),  # without a number: each process has its own GPU
    )
    images = ImageSet(splits["test"], frame, cache)  # names an unusable file before the training
    normals = {name: ImageSet(splits[name], frame, cache) for name in ("held out", "validation")}
    labels = [record.label for record in images.records]
    confounds = separations(images.plain_statistics(), labels)
    found = strongest(confounds, labels.count(0), labels.count(1))
    ignored, lines = describe_ignored(frame, images.ignored, len(images))
    protocol = [*folder.manifest["protocol"], *lines, *([str(found)] if found else [])]
    folder.update(training_images=data.statistics(), confounds=confounds, protocol=protocol, **ignored)
    device = method.device
    with run_loggers(settings, folder) as loggers:
        last = fit_stages(folder, settings, method, data, loggers)
        folder.update(provenance=method.provenance())
        to_memory_format(method.to(device), hardware.memory_format)
        if last:
            check_learning(folder, method, last, data.examples(EXAMPLES))
        store_weights(folder, method, settings.weights_dtype, images, view)
        with tempfile.TemporaryDirectory(dir=folder.path, prefix=".scoring") as scratch:
            scored = score(folder, method, images, Path(scratch), view, workers)
            measure(folder, settings, images, scored)
            rows = [
                row for name, each in normals.items() for row in calibration_rows(method, each, name, view, workers)
            ]
            calibrate_run(folder, scored[""].maps, images.masks, rows, images.ignored)
            draw_heatmaps(folder, images, scored[""].maps, settings.save_heatmaps)
            if last and settings.points:
                first = partial(built, settings, device, image_size=method.image_size)
                measure_points(folder, settings, last.stage, first, data, images, Path(scratch), view)
        folder.finish()
    log.info("done: %s (%s)", folder.path, size_text(folder.manifest["bytes"]))


def fit_stages(
    folder: RunFolder, settings: config.Settings, method: Method, data: NormalLoaders, loggers: list[RunLogger]
) -> Beginning | None:
    """Fit the stages that are not fitted yet, and record what each took, or what a method without stages took.

    Returns the last stage as it began; None without any.
    """
    hardware, device, finished = settings.hardware, method.device, folder.manifest["stages"]
    began, last = time.monotonic(), None
    reset_peak_memory()
    for stage in stages_of(method, data):  # statistics are computed where the training is
        to_memory_format(stage.module, hardware.memory_format)
        last = beginning(stage)
        if stage.name in finished and load_fitted(stage, checkpoint_path(folder.path, stage)):
            log.info("%s: fitted in an earlier attempt", stage.name)
        else:
            points = [KeepPoints(stage, folder.path, settings.points)] if settings.points else []
            spent = fit(stage, folder.path, hardware, settings.seed, settings.checkpoint_seconds, loggers, points)
            earlier = finished.get(stage.name, {}).get("peak_memory_mb", 0)  # its checkpoint is gone or damaged
            spent["peak_memory_mb"] = max(spent["peak_memory_mb"], earlier)
            folder.update(stages={stage.name: spent})
            write_weights(stage.module, checkpoint_path(folder.path, stage))
        stage.module.to(device)  # Lightning leaves a module on the CPU
        seed_everything(settings.seed, verbose=False)  # what comes next draws the same after a restart
    if not last:  # what a method without a training computes from the normal images: a memory bank, a Gaussian
        spent = {"seconds": round(time.monotonic() - began, 3), "peak_memory_mb": peak_memory_mb()}
        folder.update(stages={"fit": spent})
    return last


def require_contract(method: Method) -> None:
    """Raises UserError for a method that lacks what every run needs: image_size, batch_size, `score`."""
    for name, more in (("image_size", ", or height and width"), ("batch_size", "")):
        value: Any = getattr(method, name, None)
        pair = value if more and isinstance(value, (tuple, list)) and len(value) == 2 else (value,)
        if any(type(each) is not int or each < 1 for each in pair):
            what = f"{type(method).__qualname__} has {name} {value!r}; its constructor must set a whole number{more}"
            raise UserError("method._target_", what)
    if type(method).score is Method.score:
        raise UserError("method._target_", f"{type(method).__qualname__} has no `score`")


def pick_device(hardware: config.Hardware) -> torch.device:
    """Return where scores are computed.  Raises UserError where a GPU is required and none is there."""
    gpu = torch.cuda.is_available()
    if hardware.accelerator == "gpu" and not gpu:
        what = "gpu asked for, but PyTorch finds no CUDA device"
        raise UserError("hardware.accelerator", what, "hardware=cpu or hardware=auto")
    return torch.device("cuda" if gpu and hardware.accelerator != "cpu" else "cpu")


def count_devices(hardware: config.Hardware) -> int:
    """Return how many processes share the training; `devices: auto` means all GPUs, on the CPU one."""
    if hardware.devices != "auto":
        return hardware.devices
    return max(1, torch.cuda.device_count()) if hardware.accelerator != "cpu" else 1


def require_space(path: Path, method: Method, pixels: int, points: int = 0) -> None:
    """Raises UserError where the disk cannot hold the run: before the training, not after it.

    pixels: of all maps.  points: of the training that are kept.  Counted are float32 maps, weights, those of each
    point, and two checkpoints with two moments for each trainable parameter while the next is written.
    """
    parameters = list(method.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    maps = pixels * (2 if points else 1)  # those of one point at a time
    needed = 4 * (maps + sum(p.numel() for p in parameters) + (9 + points) * trainable)
    existing = next(p for p in (path, *path.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"the run needs about {needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free on {existing}"
        raise UserError("output_dir", what, "free some space or choose another output_dir=DIR")
