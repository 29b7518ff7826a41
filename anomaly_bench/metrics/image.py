"""Metrics of one score for each image."""

from __future__ import annotations

from .auroc import ranking_metrics, ranking_names
from .counting import rank_images
from .inputs import Array, check_images, undefined


def image_metrics(scores: Array, labels: Array) -> dict[str, float]:
    """Return AUROC, average precision and best F1: `image_auroc`, `image_ap`, `image_f1_max`, each in [0, 1].

    scores [N]: real, larger = more anomalous, any range.  labels [N]: 0 normal, 1 anomalous.  Arrays, or tensors on any
    device.  Tied scores enter a curve together, AP is scikit-learn's step sum, and any order of the images gives the
    same bits.  With one class only, all three are nan with an UndefinedMetricWarning.  Raises ValueError for an empty
    input, shapes that differ or are not [N], labels other than 0 and 1, and a score that is not finite (naming the
    first such image).

    >>> image_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])["image_auroc"]
    0.75
    """
    scores, anomalous = check_images(scores, labels)
    if anomalous.all() or not anomalous.any():
        reason = f"no image is {'normal' if anomalous.all() else 'anomalous'}"
        return undefined(ranking_names("image"), reason)
    return ranking_metrics(rank_images(scores, anomalous), "image")
