"""PatchCore written a second, literal way: float64, one patch after another, from the paper and its code."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from tests.references.bilinear import bilinear


def average(values: np.ndarray, length: int) -> np.ndarray:
    """Return `length` means of neighbouring values, whose ranges may overlap by one."""
    n = len(values)
    ends = [(math.floor(i * n / length), math.ceil((i + 1) * n / length)) for i in range(length)]
    return np.array([values[start:end].mean() for start, end in ends])


def neighbourhood(f: np.ndarray, row: int, column: int, p: int) -> np.ndarray:
    """Return the values around a position of [C, h, w], channel by channel: [C p p]; zeros beyond the border."""
    padded = np.pad(f.astype(np.float64), ((0, 0), (p // 2, p // 2), (p // 2, p // 2)))
    return padded[:, row : row + p, column : column + p].reshape(-1)


def patches(layers: list[np.ndarray], p: int, layer_dimensions: int, dimensions: int) -> np.ndarray:
    """Return the patch features of one image, [h w, D]; layers: [C, h, w] of each, the first one's grid is meant."""
    height, width = layers[0].shape[1:]
    joined = []
    for f in layers:
        h, w = f.shape[1:]
        around = [[neighbourhood(f, row, column, p) for column in range(w)] for row in range(h)]
        whole = np.moveaxis(np.array(around), 2, 0)  # [C p p, h, w]
        whole = np.stack([bilinear(plane, height, width) for plane in whole])
        flat = whole.reshape(len(whole), -1).T
        joined.append(np.stack([average(values, layer_dimensions) for values in flat]))
    return np.stack([average(values, dimensions) for values in np.concatenate(joined, 1)])


def coreset(points: np.ndarray, count: int, starts: list[int]) -> list[int]:
    """Return the numbers of the points chosen, one after another."""
    nearest = np.mean([np.linalg.norm(points - points[i], axis=1) for i in starts], axis=0)
    chosen: list[int] = []
    for _ in range(count):
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def scores(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return the distance of each query from the nearest row of the bank, eq. 6: [Q]."""
    return np.array([min(np.linalg.norm(m - q) for m in bank) for q in queries])


def reweighted(queries: np.ndarray, bank: np.ndarray, b: int) -> float:
    """Return eq. 7's factor of an image with these patches."""
    distances = np.linalg.norm(queries[:, None] - bank, axis=2)
    m_test = queries[distances.min(1).argmax()]
    to_bank = np.linalg.norm(bank - m_test, axis=1)
    m_star = bank[to_bank.argmin()]
    around = np.linalg.norm(bank - m_star, axis=1).argsort()[:b]
    return float(1 - math.exp(to_bank.min()) / sum(math.exp(d) for d in to_bank[around]))


def anomaly_map(found: np.ndarray, side: int, size: int, sigma: float) -> np.ndarray:
    """Return scores of patches [side side], upsampled to a square of `size` pixels and blurred."""
    return gaussian_filter(bilinear(found.reshape(side, side), size, size), sigma, mode="reflect", truncate=4.0)
