"""How long a stage is trained: epochs, as papers say it, or steps, which do not shrink with the folder of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from anomaly_bench.errors import UserError


@dataclass(frozen=True)
class TrainingLength:
    """Epochs over the training images, or steps.  Raises UserError unless exactly one of the two is set."""

    epochs: int | None
    steps: int | None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            given = f"{self.epochs} given, with method.steps={self.steps}" if self.steps else "null given, and no steps"
            hint = "method.steps=null, or method.epochs=null" if self.steps else "method.epochs=N or method.steps=N"
            raise UserError("method.epochs", f"{given}; exactly one of epochs and steps is needed", hint)

    def limits(self, loader: DataLoader[Any], batch_size: int) -> dict[str, int]:
        """Return the arguments of Lightning's Trainer.  loader: of the stage; batch_size: over all devices together."""
        if self.steps is None:
            assert self.epochs is not None  # as __post_init__ has checked
            return {"max_epochs": self.epochs}
        epoch = math.ceil(len(loader.dataset) / batch_size)  # type: ignore[arg-type]
        return {"max_epochs": math.ceil(self.steps / epoch), "max_steps": self.steps}
