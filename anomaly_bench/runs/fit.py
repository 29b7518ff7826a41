"""Fitting one stage with Lightning so that nothing is lost: checkpoints, resume, loss curve, seconds, peak memory."""

from __future__ import annotations

import contextlib
import logging
import math
import resource
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.multiprocessing.spawn import ProcessRaisedException

from anomaly_bench.config import Hardware
from anomaly_bench.console import training_bar_shown
from anomaly_bench.contracts import Method, NormalData, Stage
from anomaly_bench.errors import UserError, check_name
from anomaly_bench.runs.callbacks import (
    Checkpoint,
    EpochSeed,
    ProcessSetup,
    ProgressBar,
    ProgressFile,
    StepLimit,
    frozen,
    quiet,
)
from anomaly_bench.runs.checkpoints import CheckedIO, DamagedCheckpoint, find_usable, read, write
from anomaly_bench.runs.loggers import RunLogger
from anomaly_bench.runs.loss_curve import LossCurve, last_seconds

log = logging.getLogger("anomaly_bench")


def fit(
    stage: Stage,
    folder: Path,
    hardware: Hardware,
    seed: int,
    checkpoint_seconds: float,
    loggers: list[RunLogger],
    more: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train a stage, from its last checkpoint if there is one.  Returns `seconds` of all attempts, `peak_memory_mb`.

    more: callbacks that are called before a checkpoint is written.
    """
    last = checkpoint_path(folder, stage)
    for parent in (last.parent.parent, last.parent):
        if parent.is_symlink():
            raise UserError(str(parent), "is a symbolic link; nothing is written through it", "remove it")
    progress: list[Callback] = [ProgressBar()] if training_bar_shown() else []
    curve = LossCurve(folder / "training.csv", stage.name, logging.DEBUG if progress else logging.INFO, loggers)
    for logger in loggers:
        logger.stage = stage.name
    limits = {"max_epochs": -1, **stage.trainer}
    steps = StepLimit(limits.pop("max_steps", math.inf))
    stage.module.strict_loading = False  # frozen parameters are left out of checkpoints
    quiet()
    checkpoint = Checkpoint(last, checkpoint_seconds)
    callbacks = [ProcessSetup(folder), EpochSeed(seed), steps, curve, *more, checkpoint]
    callbacks += [ProgressFile(folder, stage.name, steps.steps), *progress]
    trainer = make_trainer(folder, hardware, callbacks, loggers, **limits)
    resumed = resume_from(last, stage.module)
    log.info("%s: %s", stage.name, f"resumes from {resumed}" if resumed else "starts")
    reset_peak_memory()
    try:
        trainer.fit(stage.module, stage.loader, ckpt_path=str(resumed) if resumed else None, weights_only=True)
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stopped
    except ProcessRaisedException as error:
        last_line = str(error).strip().splitlines()[-1]
        if last_line.startswith(f"{UserError.__module__}."):  # a training process sends its traceback as text
            raise UserError(stage.name, last_line.partition(": ")[2]) from error
        raise
    return {"seconds": last_seconds(curve.path, stage.name), "peak_memory_mb": peak_memory_mb()}


def make_trainer(
    folder: Path, hardware: Hardware, callbacks: list[Callback], loggers: list[RunLogger], **limits: Any
) -> Trainer:
    """Return Lightning's trainer.  limits: `max_epochs` and others of its arguments."""
    shared = {"accelerator", "devices", "strategy", "precision", "sync_batchnorm"}
    return Trainer(
        deterministic="warn",
        logger=[each for each in loggers if each.each_step] or False,
        log_every_n_steps=1,
        callbacks=callbacks,
        plugins=[CheckedIO()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
        enable_model_summary=False,
        **hardware.model_dump(include=shared),
        **limits,
    )


def checkpoint_path(folder: Path, stage: Stage) -> Path:
    """Return where a stage's last checkpoint is."""
    return folder / "checkpoints" / stage.name / "last.ckpt"


def resume_from(last: Path, module: LightningModule) -> Path | None:
    """Return the checkpoint that a training goes on from, if there is one.  Raises UserError for another method's."""
    if (found := find_usable(last)) is None:
        return None
    path, content = found
    require_weights_of(module, content["state_dict"], path)
    return path


def load_fitted(stage: Stage, path: Path) -> bool:
    """Bring a stage that was finished in an earlier attempt to its fitted state from what `write_weights` wrote.

    Returns False where that is not possible: then `fit` goes on from the last whole checkpoint, after which little or
    nothing is left to train, or starts anew.  Raises UserError for a checkpoint of another method.
    """
    try:
        content = read(path, mapped=True)
    except DamagedCheckpoint as error:
        if not path.parent.is_dir():  # otherwise `fit` warns
            log.warning("%s %s, so this stage starts anew", path, error)
        return False
    if content.keys() != {"state_dict"}:  # stopped before `write_weights`, or while it was fitted again
        return False
    require_weights_of(stage.module, content["state_dict"], path)
    stage.module.load_state_dict(content["state_dict"], strict=False)
    return True


def require_weights_of(module: LightningModule, state: Any, path: Path) -> None:
    """Raises UserError unless a checkpoint has the module's tensors; frozen parameters may be missing."""
    shapes = {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
    found = {name: getattr(value, "shape", None) for name, value in state.items()} if isinstance(state, dict) else {}
    if shapes.keys() - found.keys() - frozen(module) or found.items() - shapes.items():
        raise UserError(str(path), "does not fit this method", "force=true trains the run anew")


def write_weights(module: LightningModule, path: Path) -> None:
    """Write what `load_fitted` reads, without the optimiser.  A checkpoint that is there becomes `previous`."""
    left_out = frozen(module)
    write(path, {"state_dict": {name: value for name, value in module.state_dict().items() if name not in left_out}})


def stages_of(method: Method, data: NormalData) -> Iterator[Stage]:
    """Yield what `method.stages` does.  Raises UserError for anything but trainable stages of different names."""
    where, names = f"{type(method).__qualname__}.stages", set()
    stages: object = method.stages(data)
    if not isinstance(stages, Iterable):
        raise UserError(where, f"returned {type(stages).__name__}; it must yield Stages")
    for stage in stages:
        if not isinstance(stage, Stage):
            raise UserError(where, f"yielded {type(stage).__name__}; a Stage is needed")
        check_name(f"{where}, name of a stage", stage.name)
        if stage.name in names:
            raise UserError(where, f"yielded two stages called '{stage.name}', which would share their checkpoints")
        if getattr(type(stage.module), "training_step", None) in (None, LightningModule.training_step):
            raise UserError(where, f"yielded {type(stage.module).__name__}, which has no `training_step`")
        names.add(stage.name)
        yield stage


def to_memory_format(module: torch.nn.Module, memory_format: str) -> None:
    """Convert a module to channels_last, in which convolutions are fastest, if that is configured."""
    if memory_format == "channels_last":
        module.to(memory_format=torch.channels_last)


def reset_peak_memory() -> None:
    """Start a new measurement where the system can (Linux, CUDA); elsewhere the peak is that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Return the peak in MiB since `reset_peak_memory`.

    Of the CUDA device where one was used; otherwise the resident memory of this process or, if larger, of one of the
    training processes that have ended.
    """
    if torch.cuda.is_available() and (device := torch.cuda.max_memory_allocated()):
        return round(device / 2**20, 1)
    return max(process_peak_mb(), round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1))


def process_peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB; on Linux, without its parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1024, 1)
