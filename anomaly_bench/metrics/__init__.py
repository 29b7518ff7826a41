"""Metrics of anomaly scores and maps.  Scores may have any range; they are never squashed, rescaled or binned.

`pixel_metrics` is exact; `StreamingPixelMetrics` needs one pass and bounded memory, and says how far off it can be.
"""

from .evaluate import Measurement, measure
from .image import image_metrics
from .inputs import UndefinedMetricWarning
from .pixel import pixel_metrics
from .seg_f1 import seg_f1
from .spro import Region, spro_metrics
from .streaming import StreamingPixelMetrics

__all__ = [
    "Measurement",
    "Region",
    "StreamingPixelMetrics",
    "UndefinedMetricWarning",
    "image_metrics",
    "measure",
    "pixel_metrics",
    "seg_f1",
    "spro_metrics",
]
