"""A run's test images with what it has stored of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class RunImages:
    """The run's test images with what it has stored of them; arrays may be read from disk one by one."""

    images: Sequence[Path | np.ndarray]
    names: Sequence[str]
    labels: np.ndarray  # [N]
    scores: np.ndarray  # [N]
    maps: Sequence[np.ndarray] | None  # float32 [H, W] each
    masks: Sequence[np.ndarray] | None  # bool [H, W] each
