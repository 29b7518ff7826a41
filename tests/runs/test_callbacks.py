"""training.csv: what a stage adds to it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from anomaly_bench.runs.callbacks import LossCurve, read_rows


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
