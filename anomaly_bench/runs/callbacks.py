"""What Lightning calls while a stage is trained: random state, progress, the last step, checkpoints."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import RichProgressBar

from anomaly_bench.runs.logs import console_level, console_log, file_log
from anomaly_bench.runs.progress import Progress

SAVING = 0.05  # share of a training that its checkpoints may take
log = logging.getLogger("anomaly_bench")


class ProcessSetup(Callback):
    """Silences Lightning and opens the log in a training process of its own, which starts with neither."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.level = folder, console_level()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up this process; nothing is left to do in the run's own."""
        quiet()
        if trainer.is_global_zero and not log.handlers:
            log.addHandler(file_log(self.folder))
            console_log(self.level)


class EpochSeed(Callback):
    """Sets the random state of each epoch from seed and epoch, so that a resumed training draws what it would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set it before the first step: at the epoch's start a resumed training draws no seed for its loader."""
        if not batch_idx:
            epoch, rank = trainer.current_epoch, trainer.global_rank
            seed_everything((self.seed + 1_000_003 * epoch + 7919 * rank) % 2**32, verbose=False)


class ProgressBar(RichProgressBar):
    """Shows the loss, and reads it at most once a second: for that the host has to wait for a GPU.

    Of what a module logs with `prog_bar=True` Lightning itself reads each step's value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read, self.loss, self.shown = -math.inf, torch.tensor(math.nan), dict[str, Any]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *more: Any) -> None:
        """Keep the loss of the step on its device."""
        if isinstance(outputs, dict) and "loss" in outputs:
            self.loss = outputs["loss"].detach()
        super().on_train_batch_end(trainer, pl_module, outputs, *more)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown."""
        if time.monotonic() - self.read >= 1:
            self.shown, self.read = {"loss": float(self.loss)}, time.monotonic()
        return {**super().get_metrics(trainer, pl_module), **self.shown}


class StepLimit(Callback):
    """Ends the training after `steps`.

    Lightning's own max_steps is of no use: with it a training resumes inside an epoch that is done, and one step under
    that epoch's number passes for a whole epoch.
    """

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a training at once that was resumed after its last step."""
        trainer.should_stop |= trainer.global_step >= self.steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End the training after the last step."""
        trainer.should_stop |= trainer.global_step >= self.steps


class ProgressFile(Callback):
    """Tells how far a stage is, for `bench list runs`."""

    def __init__(self, folder: Path, stage: str, steps: float) -> None:
        """steps: after which the training ends, of the optimisers; infinite where its epochs are counted."""
        self.progress, self.steps = Progress(folder, stage), steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it, if it is time: the loss is read from its device only then."""
        if not trainer.is_global_zero or not self.progress.due():
            return
        epoch, epochs, batches = trainer.current_epoch, trainer.max_epochs or -1, trainer.num_training_batches
        done = epoch * batches + batch_idx + 1
        figures: dict[str, Any] = {"epoch": epoch + 1, "step": done}
        if epochs > 0 and math.isfinite(batches):
            figures |= {"epochs": epochs, "steps": epochs * batches}
        if isinstance(outputs, dict) and "loss" in outputs:
            figures["loss"] = float(outputs["loss"])
        by_epochs = done / figures["steps"] if "steps" in figures else 0.0
        if trainer.global_step / self.steps > by_epochs:
            figures |= {"step": trainer.global_step, "steps": int(self.steps)}
            figures.pop("epochs", None)
        self.progress.tell(figures.pop("step"), figures.pop("steps", None), **figures)


class Checkpoint(Callback):
    """Saves `last.ckpt` after an epoch if `seconds` have passed since the checkpoint before, and so many that writing
    checkpoints takes at most `SAVING` of a training.  seconds: 0 saves after each epoch.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self.saved = path, seconds, time.monotonic()
        self.spent = 0.0  # seconds that the last one took to write

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out what is not trained."""
        for name in frozen(pl_module):
            checkpoint["state_dict"].pop(name, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time; all processes must agree, because saving is collective."""
        began = time.monotonic()
        due = began - self.saved >= (self.seconds and max(self.seconds, self.spent / SAVING))
        if trainer.strategy.broadcast(due):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()
            self.spent = self.saved - began


def frozen(module: LightningModule) -> set[str]:
    """Return the names of the parameters that are not trained, which every start loads anyway."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def quiet() -> None:
    """Silence Lightning's notes on workers, devices and intervals, which do not concern who runs a benchmark."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*isinstance.treespec.*",
        ".*Checkpoint directory.*",
        ".*in eval mode at the start.*",
    ):
        warnings.filterwarnings("ignore", message)
