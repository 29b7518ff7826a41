"""Exact metrics: NumPy in, numbers out.  Scores may have any range; they are never squashed, rescaled or binned."""

from .image import image_metrics
from .pixel import pixel_metrics
from .ranks import UndefinedMetricWarning

__all__ = ["UndefinedMetricWarning", "image_metrics", "pixel_metrics"]
