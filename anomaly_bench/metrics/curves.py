"""Curves to look at: of the exact ones at most 200 points, each of them exact (to six digits)."""

from __future__ import annotations

import numpy as np

from .counting import rank_images
from .inputs import Array
from .pixel import Curve

POINTS = 200
PRO_WIDTH = 0.3  # of the PRO curve, all that is kept: the usual limit of its area (Bergmann et al., IJCV 2021)

Points = dict[str, list[float]]  # {"x": [...], "y": [...]}, x rising


def curves(scores: Array, labels: Array, pixels: Curve | None) -> dict[str, Points]:
    """Return `image_roc`, `pixel_roc` and `pro`, as far as they are defined; x: false-positive rate, y: share found.

    scores [N], labels [N]: as for `image_metrics`.  pixels: the curve of `pixel_metrics_and_curve` or of
    `StreamingPixelMetrics`.  y of `pro` is the mean over defect regions of the share of their pixels that is found.
    """
    found = {"image_roc": image_roc(scores, labels)} if 0 < np.count_nonzero(labels) < len(labels) else {}
    if pixels:
        false = np.concatenate([[0], pixels.false, [pixels.normal]]) / pixels.normal
        found["pixel_roc"] = _points(false, np.concatenate([[0], pixels.true / pixels.anomalous, [1]]))
        found["pro"] = _points(false, np.concatenate([[0], pixels.overlap, [1]]), PRO_WIDTH)
    return found


def image_roc(scores: Array, labels: Array) -> Points:
    """Return the ROC curve with its corners; images of both classes are needed.  Tied scores enter together.

    >>> image_roc(np.array([0.1, 0.9]), np.array([0, 1]))
    {'x': [0.0, 0.0, 1.0], 'y': [0.0, 1.0, 1.0]}
    """
    ranks = rank_images(scores, np.asarray(labels) != 0)
    x = np.stack([ranks.above, ranks.false], 1).ravel() / ranks.normal
    y = np.stack([ranks.true - ranks.equal, ranks.true], 1).ravel() / ranks.anomalous
    return _points(np.concatenate([[0], x, [1]]), np.concatenate([[0], y, [1]]))


def _points(x: Array, y: Array, width: float = 1.0) -> Points:
    """Return the points of a rising curve up to x = width and the first one beyond, at even steps along it."""
    end = int(np.searchsorted(x, width)) + 1
    x, y = x[:end], y[:end]
    unchanged = [(v[1:-1] == v[:-2]) & (v[2:] == v[1:-1]) for v in (x, y)]  # inside a level or upright line
    corners = np.concatenate([[True], ~(unchanged[0] | unchanged[1]), [True]])
    x, y = x[corners], y[corners]
    if len(x) > POINTS:
        length = np.minimum(x, width) / width + y  # along the curve: both rise
        at = np.searchsorted(length, np.linspace(length[0], length[-1], POINTS))
        at = np.unique(np.concatenate([[0], at[1:-1], [len(x) - 1]]))
        x, y = x[at], y[at]
    return {"x": [float(f"{v:.6g}") for v in x], "y": [float(f"{v:.6g}") for v in y]}
