"""Metrics of one score for each image."""

from __future__ import annotations

import numpy as np

from .counting import around
from .ranks import Array, Counts, auroc, average_precision, distinct, f1_max, rank, undefined
from .regions import host, native


def image_metrics(scores: Array, labels: Array) -> dict[str, float]:
    """AUROC, average precision and best F1 of image scores: `image_auroc`, `image_ap`, `image_f1_max`, each in [0, 1].

    scores [N]: real, larger = more anomalous, any range.  labels [N]: 0 normal, 1 anomalous.  Arrays, or tensors on any
    device.  Tied scores enter a curve together, AP is scikit-learn's step sum, and any order of the images gives the
    same bits.  With one class only, all three are nan with an UndefinedMetricWarning.  Raises ValueError for an empty
    input, shapes that differ or are not [N], labels other than 0 and 1, and a score that is not finite (naming the
    first such image).
    """
    scores, anomalous = _checked(native(host(scores)), host(labels))
    if anomalous.all() or not anomalous.any():
        names = ["image_auroc", "image_ap", "image_f1_max"]
        return undefined(names, f"no image is {'normal' if anomalous.all() else 'anomalous'}")
    values, equal = distinct(np.sort(scores[anomalous]))
    ranks = rank(equal, around(values, scores[~anomalous], Counts.zero(values)))
    return {"image_auroc": auroc(ranks), "image_ap": average_precision(ranks), "image_f1_max": f1_max(ranks)}


def _checked(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Scores in their native dtype and labels as bool, both [N], N > 0."""
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape} and labels {labels.shape}; both must be [N]")
    if not len(scores):
        raise ValueError("no image: scores and labels are empty")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(f"the score of image {bad[0]} is {scores[bad[0]]}; scores must be finite")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise ValueError(f"the label of image {bad[0]} is {labels[bad[0]]}; labels must be 0 (normal) or 1 (anomalous)")
    return scores, labels.astype(bool)
