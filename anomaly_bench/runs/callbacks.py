"""What Lightning calls while a stage is trained: loss curve (training.csv), random state, divergence, checkpoints."""

from __future__ import annotations

import csv
import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import RichProgressBar

from anomaly_bench.errors import UserError
from anomaly_bench.files import records_csv, write_text
from anomaly_bench.runs.logs import console_level, console_log, file_log
from anomaly_bench.runs.progress import Progress

if TYPE_CHECKING:
    from anomaly_bench.runs.loggers import RunLogger

SAVING = 0.05  # share of a training that its checkpoints may take
EXPLODED = 1e6  # times the first loss, or times 1 where that is smaller: no training that learns reaches it
DIVERGED = "the training diverged; a smaller method.lr?"
NOT_LEARNED = "before anything was learned: are the pretrained weights in order? does hardware.precision=32-true help?"
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


class LossCurve(Callback):
    """Writes training.csv, a row for each epoch: stage, epoch, steps, seconds, logged values.  Ends what diverges.

    `loss` is the mean of what `training_step` returned in the epoch, `first_loss` and `last_loss` that of the first and
    of the last tenth of its steps; other values are what the module logged.  On resume, rows of epochs that will be
    repeated are dropped.
    """

    def __init__(self, path: Path, stage: str, level: int, loggers: Sequence[RunLogger] = ()) -> None:
        self.path, self.stage, self.level, self.loggers = path, stage, level, loggers
        self.rows: list[dict[str, Any]] = []  # of this stage
        self.rows_before: list[dict[str, Any]] = []  # of the stages before it
        self.rows_after: list[dict[str, Any]] = []  # where this stage is fitted once more
        self.began = self.seconds_before = 0.0
        self.losses: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows of earlier attempts, and keep those of epochs that will not be repeated."""
        rows = read_rows(self.path)
        first = next((i for i, row in enumerate(rows) if row["stage"] == self.stage), len(rows))
        self.rows_before, rest = rows[:first], rows[first:]
        self.rows_after = [row for row in rest if row["stage"] != self.stage]
        self.rows = [r for r in rest if r["stage"] == self.stage and int(r["epoch"]) < trainer.current_epoch]
        self.seconds_before = max((float(row["seconds"]) for row in self.rows), default=0.0)
        self.began = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin the epoch without losses."""
        if not batch_idx:
            self.losses.clear()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the loss of the step."""
        if isinstance(outputs, dict) and "loss" in outputs:
            self.losses.append(outputs["loss"].detach())  # stays on its device, so that no step waits for it

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of the epoch.  Raises UserError, before this epoch's checkpoint, where the training diverged."""
        values, ends, losses = {name: float(v) for name, v in trainer.callback_metrics.items()}, {}, list[float]()
        if self.losses:
            stacked, tenth = torch.stack(self.losses), math.ceil(len(self.losses) / 10)
            losses = stacked.tolist()
            means = torch.stack([part.mean() for part in (stacked, stacked[:tenth], stacked[-tenth:])])
            reduced: torch.Tensor = trainer.strategy.reduce(means, reduce_op="mean")
            values["loss"], *tenths = reduced.tolist()
            ends = dict(zip(("first_loss", "last_loss"), tenths, strict=True))
        first = next((float(row["loss"]) for row in self.rows if row.get("loss")), losses[0] if losses else 0.0)
        if found := divergence(values, losses, first, trainer.global_step, pl_module):
            what, step = found
            at_once = not trainer.current_epoch and losses and not math.isfinite(losses[0])
            where = f"{self.stage}, epoch {trainer.current_epoch + 1}, step {step}"
            raise UserError(where, what, NOT_LEARNED if at_once else DIVERGED)
        seconds = round(self.seconds_before + time.monotonic() - self.began, 3)
        row = {"stage": self.stage, "epoch": trainer.current_epoch, "steps": trainer.global_step, "seconds": seconds}
        self.rows.append(row | values | ends)
        if trainer.is_global_zero:
            write_text(self.path, records_csv([*self.rows_before, *self.rows, *self.rows_after]))
            text = " ".join(f"{name} {v:.5g}" for name, v in values.items())
            epoch = f"{trainer.current_epoch + 1} of {trainer.max_epochs}"
            log.log(self.level, "%s: epoch %s, %s, %.0f s", self.stage, epoch, text, seconds)
            for logger in self.loggers:
                logger.log_epoch(trainer.current_epoch, values)


def divergence(
    values: Mapping[str, float], losses: Sequence[float], first: float, steps: int, module: LightningModule
) -> tuple[str, int] | None:
    """Return what shows that a training diverged, and the first step with a loss beyond all bounds; None if it did not.

    values: of the epoch, by name.  losses: of its steps.  first: the first loss of the training.  steps: taken so far.
    """
    wrong, bound = {name: v for name, v in values.items() if not math.isfinite(v)}, EXPLODED * max(1.0, abs(first))
    step = steps
    for i, loss in enumerate(losses):
        if not abs(loss) <= bound:  # nan too
            wrong, step = {"loss": loss}, steps - len(losses) + i + 1
            break
    reasons = [f"{name} is {v:.6g}" for name, v in wrong.items()]
    finite = [p.isfinite().all() for p in module.parameters() if p.requires_grad]
    if not reasons and finite and not bool(torch.stack(finite).all()):  # read at once: a GPU makes the host wait
        reasons = ["a weight is no longer finite"]
    return (", ".join(reasons), step) if reasons else None


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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of training.csv, none where there is no file yet.  Raises UserError for a damaged file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows: list[dict[str, Any]] = list(reader)
        if lacking := {"stage", "epoch", "seconds"} - set(reader.fieldnames or ()):
            raise ValueError(f"no column {min(lacking)}")
        numbers = [(int(r["epoch"]), float(r["seconds"]), float(r.get("loss") or 0)) for r in rows if r["stage"]]
        if len(numbers) < len(rows) or not all(math.isfinite(value) for row in numbers for value in row):
            raise ValueError("a row without stage, or with a number that is not finite")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        hint = "remove it: the training goes on, its curve and seconds begin anew"
        raise UserError(str(path), f"is damaged ({type(error).__name__}: {error})", hint) from error
    return rows


def last_seconds(path: Path, stage: str) -> float:
    """Return the seconds that a stage was trained in all attempts together."""
    return max((float(r["seconds"]) for r in read_rows(path) if r["stage"] == stage), default=0.0)


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
