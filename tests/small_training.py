"""A stage fitted by Lightning alone, without the run around it."""

from __future__ import annotations

from pytorch_lightning import Trainer

from anomaly_bench.contracts import Stage


def fit(stage: Stage) -> Trainer:
    """Train a stage to its end on the CPU; the trainer knows what was done."""
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **stage.trainer,
    )  # fmt: skip
    trainer.fit(stage.module, stage.loader)
    return trainer
