"""Bilinear interpolation between the centres of pixels, pixel by pixel in float64."""

from __future__ import annotations

import numpy as np


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w] -> [height, width]; beyond the outermost centres the outermost values go on."""
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = value_at(values, (y + 0.5) / height, (x + 0.5) / width)
    return out


def value_at(values: np.ndarray, v: float, u: float) -> float:
    """The value at a point of the unit square, each value lying at the centre of its pixel."""
    h, w = values.shape
    y, x = min(max(v * h - 0.5, 0), h - 1), min(max(u * w - 0.5, 0), w - 1)
    top, left = min(int(y), max(h - 2, 0)), min(int(x), max(w - 2, 0))
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    b, r = y - top, x - left
    above = (1 - r) * float(values[top, left]) + r * float(values[top, right])
    below = (1 - r) * float(values[bottom, left]) + r * float(values[bottom, right])
    return (1 - b) * above + b * below
