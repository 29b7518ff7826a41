"""Curves to look at: of the exact ones at most 200 points, each of them exact (to six digits)."""

from __future__ import annotations

import numpy as np

from .counting import around
from .pixel import Curve
from .ranks import Array, Counts, distinct, rank

POINTS = 200
PRO_WIDTH = 0.3  # of the PRO curve, all that is kept: the usual limit of its area (Bergmann et al., IJCV 2021)

Points = dict[str, list[float]]  # {"x": [...], "y": [...]}, x rising


def curves(scores: Array, labels: Array, pixels: Curve | None) -> dict[str, Points]:
    """`image_roc`, `pixel_roc` and `pro`, as far as they are defined; x is a false-positive rate, y a share found.

    scores [N], labels [N]: as for `image_metrics`.  pixels: the curve that `exact` or the streaming metrics give.
    y of `pro` is the mean over defect regions of the share of their pixels that is found.
    """
    found = {"image_roc": image_roc(scores, labels)} if 0 < np.count_nonzero(labels) < len(labels) else {}
    if pixels:
        false = np.concatenate([[0], pixels.false, [pixels.normal]]) / pixels.normal
        found["pixel_roc"] = _points(false, np.concatenate([[0], pixels.true / pixels.anomalous, [1]]))
        found["pro"] = _points(false, np.concatenate([[0], pixels.overlap, [1]]), PRO_WIDTH)
    return found


def image_roc(scores: Array, labels: Array) -> Points:
    """The ROC curve with its corners; images of both classes are needed.  Tied scores enter together."""
    anomalous = np.asarray(labels) != 0
    values, equal = distinct(np.sort(scores[anomalous]))
    ranks = rank(equal, around(values, scores[~anomalous], Counts.zero(values)))
    x = np.stack([ranks.above, ranks.false], 1).ravel() / ranks.normal
    y = np.stack([ranks.true - ranks.equal, ranks.true], 1).ravel() / ranks.anomalous
    return _points(np.concatenate([[0], x, [1]]), np.concatenate([[0], y, [1]]))


def _points(x: Array, y: Array, width: float = 1.0) -> Points:
    """What is seen of a rising curve up to x = width and the first point beyond, at even steps along it."""
    end = int(np.searchsorted(x, width)) + 1
    x, y = x[:end], y[:end]
    still = [(v[1:-1] == v[:-2]) & (v[2:] == v[1:-1]) for v in (x, y)]  # inside a level or upright line
    kept = np.concatenate([[True], ~(still[0] | still[1]), [True]])
    x, y = x[kept], y[kept]
    if len(x) > POINTS:
        way = np.minimum(x, width) / width + y  # both rise
        at = np.searchsorted(way, np.linspace(way[0], way[-1], POINTS))
        at = np.unique(np.concatenate([[0], at[1:-1], [len(x) - 1]]))
        x, y = x[at], y[at]
    return {"x": [float(f"{v:.6g}") for v in x], "y": [float(f"{v:.6g}") for v in y]}
