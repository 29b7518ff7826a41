"""Pictures of a result: the image with the region above the pixel threshold outlined, and its anomaly map."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from anomaly_bench.runs.sheet import colours, outlined

GAP = 8  # pixels between image and map


def overlay(image: np.ndarray, values: np.ndarray, threshold: float) -> np.ndarray:
    """Return the image [H, W, 3] with a line around the pixels whose anomaly score is above the threshold.

    values: the map at the image's size, [H, W].
    """
    return outlined(image, values > threshold)


def result_png(image: np.ndarray, values: np.ndarray | None, threshold: float | None) -> bytes:
    """Return a PNG: the image, uint8 [H, W, 3], and beside it the map, [H, W], in the colours of a run's heat maps.

    Brightest is the map's maximum or the pixel threshold, whichever is larger, so that a normal image looks dark.
    """
    panels = [image if values is None or threshold is None else overlay(image, values, threshold)]
    if values is not None:
        high = max(float(values.max()), threshold if threshold is not None else -np.inf)
        panels += [np.full((image.shape[0], GAP, 3), 255, np.uint8), colours(values, float(np.median(values)), high)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(panels, 1)).save(file, "PNG")
    return file.getvalue()
