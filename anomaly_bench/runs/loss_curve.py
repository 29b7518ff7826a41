"""The losses of a stage, epoch by epoch, as training.csv; and whether its training diverged."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from anomaly_bench.errors import UserError
from anomaly_bench.files import records_csv, write_text

if TYPE_CHECKING:
    from anomaly_bench.runs.loggers import RunLogger

EXPLODED = 1e6  # times the first loss, or times 1 where that is smaller: no training that learns reaches it
DIVERGED = "the training diverged; a smaller method.lr?"
NOT_LEARNED = "before anything was learned: are the pretrained weights in order? does hardware.precision=32-true help?"
log = logging.getLogger("anomaly_bench")


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
