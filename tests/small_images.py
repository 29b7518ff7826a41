"""Images of a few pixels that can be checked by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def grey(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side), value, dtype=np.uint8)


def square(side: int = 8) -> np.ndarray:
    """A mask: a white square of 4 x 4 pixels in the middle."""
    mask = grey(0, side)
    mask[2:6, 2:6] = 255
    return mask
