"""How well plain image statistics separate normal from anomalous test images, so that no figure is taken for more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.metrics import image_metrics

HIGH = 0.9  # AUROC, or 0.1: from here on a statistic alone separates the classes
SIGNIFICANT = 0.01  # over all statistics, two-sided
MEANS = {  # what image scores may measure on such data
    "mean grey": "lighting",
    "deviation of grey": "lighting or contrast",
    "sharpness": "focus",
    "aspect ratio": "the shape of the image",
    "number of pixels": "the size of the image",
    "file size": "how the files were stored",
}


def separations(images: ImageSet) -> dict[str, float]:
    """Return the AUROC of each statistic of the test images, in [0, 1]; below 0.5: normal images have the larger ones.

    Empty where a class is missing.
    """
    labels = np.array([record.label for record in images.records])
    if labels.all() or not labels.any():
        return {}
    columns = np.array([list(each) for each in images.plain_statistics()]).T  # [statistics, N]
    return {name: image_metrics(c, labels)["image_auroc"] for name, c in zip(MEANS, columns, strict=True)}


def confound_line(found: Mapping[str, float], labels: Sequence[int]) -> str:
    """Return a sentence on the statistic that separates best, if its AUROC is above 0.9 or significantly above 0.5.

    Significant: by the normal approximation of the rank sum test, corrected for the number of statistics.
    """
    if not found:
        return ""
    name, auroc = max(found.items(), key=lambda item: abs(item[1] - 0.5))
    anomalous = sum(labels)
    normal = len(labels) - anomalous
    deviation = math.sqrt((normal + anomalous + 1) / (12 * normal * anomalous))
    p = math.erfc(abs(auroc - 0.5) / deviation / math.sqrt(2)) * len(found)
    separation = max(auroc, 1 - auroc)
    if separation <= HIGH and p > SIGNIFICANT:
        return ""
    text = f"{name} alone separates normal from anomalous test images with AUROC {separation:.3f}"
    return f"{text}: image scores on this data may measure {MEANS[name]}" if separation > HIGH else f"for scale: {text}"
