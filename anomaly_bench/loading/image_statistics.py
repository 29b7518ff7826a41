"""Shape, brightness and sharpness of images, to tell whether one is like those that a run was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_bench.loading.image_files import width_and_height

SLACK = 0.05  # of a bound: an image is unlike the training images from here on outside their range


class ImageStatistics(NamedTuple):
    """What does not depend on the motif."""

    aspect_ratio: float  # width / height of the file
    mean_grey: float  # 0 to 255
    sharpness: float  # variance of the Laplacian of the grey values, at the size that the method sees


def image_statistics(image: np.ndarray, width: int, height: int) -> ImageStatistics:
    """Return the statistics of an image, uint8 [H, W, 3] as the method sees it.  width, height: of its file."""
    grey = image.mean(2, dtype=np.float32)  # [H, W]
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    sharpness = float(laplacian.var()) if laplacian.size else 0.0
    return ImageStatistics(width / height, float(grey.mean()), sharpness)


def plain_statistics(image: np.ndarray, source: Path | np.ndarray) -> tuple[float, ...]:
    """Return mean and deviation of grey, sharpness, aspect ratio, number of pixels, and bytes of the file.

    image: uint8 [H, W, 3] as the method sees it.  source: its file, or an array, whose pixels' bytes then count.
    """
    width, height = width_and_height(source) or (1, 1)
    found, deviation = image_statistics(image, width, height), float(image.mean(2, dtype=np.float32).std())
    size = source.nbytes if isinstance(source, np.ndarray) else source.stat().st_size
    return found.mean_grey, deviation, found.sharpness, found.aspect_ratio, width * height, size


def ranges(statistics: Iterable[ImageStatistics]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each statistic.  There must be at least one image."""
    columns = zip(*statistics, strict=True)
    return {name: (min(c), max(c)) for name, c in zip(ImageStatistics._fields, columns, strict=True)}


def unlike(found: ImageStatistics, trained_on: Mapping[str, Sequence[float]]) -> str:
    """Return what lies outside the training images' `ranges` by more than 5 % of their bound; empty where nothing does.

    >>> unlike(ImageStatistics(2.7, 90.0, 5.0), {"aspect_ratio": (0.9, 1.1), "mean_grey": (80, 100)})
    'aspect ratio 2.7, trained on 0.9-1.1'
    """
    outside = []
    for name, (low, high) in trained_on.items():
        value = getattr(found, name)
        if not low * (1 - SLACK) <= value <= high * (1 + SLACK):
            outside.append(f"{name.replace('_', ' ')} {_short(value)}, trained on {_short(low)}-{_short(high)}")
    return "; ".join(outside)


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
