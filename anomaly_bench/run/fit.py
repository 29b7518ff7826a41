"""Fitting one stage with Lightning so that nothing is lost: checkpoints, resume, loss curve, seconds, peak memory."""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import Logger
from torch.multiprocessing.spawn import ProcessRaisedException

from anomaly_bench.config import Hardware
from anomaly_bench.contracts import Stage
from anomaly_bench.errors import UserError
from anomaly_bench.files import unwritable
from anomaly_bench.run.checkpoints import CheckedIO, read, usable, write
from anomaly_bench.run.curve import Curve, last_seconds, quiet

log = logging.getLogger("anomaly_bench")


def fit(
    stage: Stage, folder: Path, hardware: Hardware, seed: int, checkpoint_seconds: float, loggers: list[Logger]
) -> dict[str, float]:
    """Train a stage, from its last checkpoint if there is one.  Returns seconds (all attempts) and peak MiB."""
    last = checkpoint_path(folder, stage)
    last.parent.mkdir(parents=True, exist_ok=True)
    progress: list[Callback] = [RichProgressBar()] if sys.stderr.isatty() and sys.stdout.isatty() else []
    curve = Curve(folder / "training.csv", stage.name, seed, logging.DEBUG if progress else logging.INFO)
    limits = {"max_epochs": -1, **stage.trainer}
    steps = StepLimit(limits.pop("max_steps", math.inf))
    stage.module.strict_loading = False  # frozen parameters are left out of checkpoints
    quiet()
    trainer = Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=hardware.strategy,
        precision=hardware.precision,
        sync_batchnorm=hardware.sync_batchnorm,
        deterministic="warn",
        logger=loggers or False,
        log_every_n_steps=1,
        callbacks=[steps, curve, Checkpoint(last, checkpoint_seconds), *progress],
        plugins=[CheckedIO()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=bool(progress),
        enable_model_summary=False,
        **limits,
    )
    resumed = usable(last)
    log.info("%s: %s", stage.name, f"resumes from {resumed}" if resumed else "starts")
    reset_peak_memory()
    try:
        trainer.fit(stage.module, stage.loader, ckpt_path=str(resumed) if resumed else None, weights_only=True)
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stopped
    except ProcessRaisedException as error:
        said = str(error).strip().splitlines()[-1]
        if said.startswith(f"{UserError.__module__}."):  # a training process can only send its traceback as text
            raise UserError(stage.name, said.partition(": ")[2]) from error
        raise
    return {"seconds": last_seconds(curve.path, stage.name), "peak_memory_mb": peak_memory_mb()}


def checkpoint_path(folder: Path, stage: Stage) -> Path:
    """Where a stage's last checkpoint lies."""
    return folder / "checkpoints" / stage.name / "last.ckpt"


def load_fitted(stage: Stage, folder: Path) -> bool:
    """Bring a stage that was finished in an earlier attempt to its fitted state; False where its checkpoints are bad.

    Raises UserError where a checkpoint is of another method.
    """
    path = checkpoint_path(folder, stage)
    found = usable(path)
    if found is None:
        return False
    frozen = {name for name, p in stage.module.named_parameters() if not p.requires_grad}
    missing, unexpected = stage.module.load_state_dict(read(found)["state_dict"], strict=False)
    if unexpected or set(missing) - frozen:
        raise UserError(str(found), "does not fit this method", "force=true trains the run anew")
    return True


def keep_weights_only(stage: Stage, folder: Path) -> None:
    """A finished stage needs no optimiser state: write its checkpoint without it; the whole one becomes `previous`."""
    path = checkpoint_path(folder, stage)
    found = usable(path)
    if found is None:
        raise UserError(
            str(path), "was written and cannot be read back", "another output_dir=DIR; is the disk in order?"
        )
    content = read(found)
    if found == path and len(content) == 1:
        return
    try:
        write(path, {"state_dict": content["state_dict"]})
    except (OSError, RuntimeError) as error:  # torch's archive writer turns a full disk into a RuntimeError
        raise unwritable(path, error if isinstance(error, OSError) else OSError(str(error))) from error


class StepLimit(Callback):
    """Ends the training after `steps`.  With its own max_steps Lightning resumes inside the epoch that is done already:
    it takes one step for a whole epoch, and that under the old number.
    """

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= trainer.global_step >= self.steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step >= self.steps


class Checkpoint(Callback):
    """`last.ckpt` at the end of an epoch if `seconds` have passed since the one before, and after the training."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self.saved = path, seconds, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for name, parameter in pl_module.named_parameters():
            if not parameter.requires_grad:  # every start loads frozen weights anyway
                checkpoint["state_dict"].pop(name, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = time.monotonic() - self.saved >= self.seconds
        if trainer.strategy.broadcast(due):  # saving is collective: the processes must agree
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        try:
            trainer.save_checkpoint(self.path)
        except (OSError, RuntimeError) as error:  # torch's archive writer turns a full disk into a RuntimeError
            raise unwritable(self.path, error if isinstance(error, OSError) else OSError(str(error))) from error
        self.saved = time.monotonic()


def reset_peak_memory() -> None:
    """Start a new measurement, where the system can (Linux, CUDA); else the peak is the whole process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Peak in MiB since `reset_peak_memory`: of the CUDA device where one was used, else resident memory of this
    process
    or, if larger, of one of its ended children (training processes)."""
    if torch.cuda.is_available() and (device := torch.cuda.max_memory_allocated()):
        return round(device / 2**20, 1)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    try:
        status = Path("/proc/self/status").read_text()
        own = int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return round(max(own, children), 1)
