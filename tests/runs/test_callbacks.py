"""training.csv: what a stage adds to it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from anomaly_bench.runs.callbacks import Checkpoint
from anomaly_bench.runs.loss_curve import LossCurve, read_rows


def test_rows_of_a_stage_that_is_fitted_again_stand_in_the_order_of_the_stages(tmp_path: Path) -> None:
    file = tmp_path / "training.csv"
    file.write_text("stage,epoch,steps,seconds,loss\na,0,1,1,0.9\na,1,2,2,0.8\nb,0,1,1,0.7\n")
    trainer: Any = SimpleNamespace(current_epoch=1, global_step=2, max_epochs=2, is_global_zero=True)
    trainer.callback_metrics, module = {"loss": 0.5}, nn.Module()
    curve = LossCurve(file, "a", level=logging.DEBUG)
    curve.on_train_start(trainer, module)  # type: ignore[arg-type]
    curve.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert [(row["stage"], row["epoch"], row["loss"]) for row in read_rows(file)] == [
        ("a", "0", "0.9"),
        ("a", "1", "0.5"),
        ("b", "0", "0.7"),
    ]


def test_checkpoints_take_no_more_than_their_share_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = 0.0, []

    def save(path: Path) -> None:
        nonlocal now
        saved.append(now)
        now += 30  # seconds that writing takes

    monkeypatch.setattr(time, "monotonic", lambda: now)
    strategy = SimpleNamespace(broadcast=lambda due: due)
    trainer: Any = SimpleNamespace(strategy=strategy, save_checkpoint=save)
    checkpoint = Checkpoint(tmp_path / "last.ckpt", 60)
    for _ in range(200):
        now += 10  # an epoch
        checkpoint.on_train_epoch_end(trainer, nn.Module())  # type: ignore[arg-type]
    assert saved == [60, 690, 1320, 1950]  # the first after 60 s, then 600 s between them
    after_each = Checkpoint(tmp_path / "last.ckpt", 0)
    saved.clear()
    for _ in range(3):
        after_each.on_train_epoch_end(trainer, nn.Module())  # type: ignore[arg-type]
    assert len(saved) == 3
