"""How well plain image statistics separate normal from anomalous test images, so that no figure is taken for more.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anomaly_bench.console import track
from anomaly_bench.records import Record

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


class Confound(NamedTuple):
    """A statistic that separates normal from anomalous test images."""

    statistic: str  # of MEANS
    auroc: float  # 0.5 to 1, whichever class has the larger values

    @property
    def suspect(self) -> str:
        """What image scores on this data may measure; empty unless the statistic alone separates the classes."""
        return MEANS[self.statistic] if self.auroc > HIGH else ""

    def __str__(self) -> str:
        text = f"{self.statistic} alone separates normal from anomalous test images with AUROC {self.auroc:.3f}"
        return f"{text}: image scores on this data may measure {self.suspect}" if self.suspect else f"for scale: {text}"


def separations(statistics: Iterable[Sequence[float]], labels: Sequence[int]) -> dict[str, float]:
    """Return the AUROC of each statistic of the test images, in [0, 1]; below 0.5: normal images have the larger ones.

    statistics: of each image, as `plain_statistics` returns them.  Empty where a class is missing.
    """
    if all(labels) or not any(labels):
        return {}
    from anomaly_bench.metrics import image_metrics

    columns = np.array([list(each) for each in statistics]).T  # [statistics, N]
    named = zip(MEANS, columns, strict=True)
    return {name: image_metrics(column, np.array(labels))["image_auroc"] for name, column in named}


def file_statistics(records: Sequence[Record], size: int) -> Iterator[tuple[float, ...]]:
    """Yield the plain statistics of images as a run with this `image_size` has them, without a cache.

    Arrays keep their own size.  Raises UserError naming a file that cannot be read.
    """
    from anomaly_bench.loading.decode import read_image
    from anomaly_bench.loading.image_statistics import plain_statistics
    from anomaly_bench.loading.resize import resize_image

    for record in track(records, "reading test images"):
        image = read_image(record.image)  # [H, W, 3]
        pixels = image if isinstance(record.image, np.ndarray) else resize_image(image, size)
        yield plain_statistics(pixels, record.image)


def strongest(found: Mapping[str, float], normal: int, anomalous: int) -> Confound | None:
    """Return the statistic that separates best, if its AUROC is above 0.9 or significantly above 0.5.

    normal, anomalous: how many images the AUROCs are of.  Significant: by the normal approximation of the rank sum
    test, corrected for the number of statistics.
    """
    if not found:
        return None
    name, auroc = max(found.items(), key=lambda item: abs(item[1] - 0.5))
    deviation = math.sqrt((normal + anomalous + 1) / (12 * normal * anomalous))
    p = math.erfc(abs(auroc - 0.5) / deviation / math.sqrt(2)) * len(found)
    separation = max(auroc, 1 - auroc)
    return Confound(name, separation) if separation > HIGH or p <= SIGNIFICANT else None
