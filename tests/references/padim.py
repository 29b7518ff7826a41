"""PaDiM written a second, literal way: float64, one position after another, by NumPy's and SciPy's own routines."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

from tests.references.bilinear import bilinear


def embedding(layers: list[np.ndarray], channels: list[int], row: int, column: int) -> np.ndarray:
    """Return x of one position of one image, [d]; layers: [C, h, w] of each, the first one's grid is meant."""
    height, width = layers[0].shape[1:]
    everything = [f[:, row * f.shape[1] // height, column * f.shape[2] // width] for f in layers]
    return np.concatenate(everything).astype(np.float64)[channels]


def distances(
    training: list[list[np.ndarray]], image: list[np.ndarray], channels: list[int], epsilon: float, shared: bool = False
) -> np.ndarray:
    """Return the Mahalanobis distance of each position of an image, [h, w].

    training, image: the features of each layer, of many images and of one.  shared: the mean of all positions'
    covariances in place of a position's own.
    """
    height, width = image[0].shape[1:]
    places = [(row, column) for row in range(height) for column in range(width)]
    samples = {place: np.stack([embedding(f, channels, *place) for f in training]) for place in places}
    covariances = {place: np.cov(x, rowvar=False, ddof=1) for place, x in samples.items()}
    if shared:
        covariances = dict.fromkeys(places, np.mean(list(covariances.values()), axis=0))
    found = np.empty((height, width))
    for place, x in samples.items():
        inverse = np.linalg.inv(covariances[place] + epsilon * np.eye(len(channels)))
        found[place] = mahalanobis(embedding(image, channels, *place), x.mean(0), inverse)
    return found


def anomaly_map(found: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Return distances [h, w], upsampled to a square of `size` pixels and blurred."""
    return gaussian_filter(bilinear(found, size, size), sigma, mode="reflect", truncate=4.0)
