"""All metrics of a test set, exact while the maps fit a memory budget, with intervals for all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .bootstrap import Track, image_intervals, pixel_intervals
from .curves import Points, curves
from .image import image_metrics
from .inputs import Array, Pixels, check_limits, of_image
from .pixel import Curve, pixel_metrics_and_curve
from .streaming import StreamingPixelMetrics

FPR_LIMITS = (0.3, 0.05)  # the convention (Bergmann et al., IJCV 2021), and the strict variant
LEVEL, SEED = 0.95, 0  # of the bootstrap


@dataclass(frozen=True)
class Measurement:
    """Values, how sure they are, and how they came about."""

    metrics: dict[str, float]  # in [0, 1], nan where undefined
    how: str = "exact"  # exact | streaming
    bounds: dict[str, float] = field(default_factory=dict)  # the certified largest error of each streamed value
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # bootstrap over test images
    resamples: int = 0  # behind the intervals
    level: float = LEVEL  # of confidence
    seed: int = SEED
    curves: dict[str, Points] = field(default_factory=dict, repr=False)  # see `curves`

    def __getitem__(self, name: str) -> float:
        """Return the value of a metric."""
        return self.metrics[name]

    def record(self) -> dict[str, Any]:
        """Return all but the metrics and the curves, for a manifest."""
        return {key: value for key, value in asdict(self).items() if key not in ("metrics", "curves")}


def measure(
    scores: Array,
    labels: Array,
    maps: Sequence[Pixels] | Pixels | None = None,
    masks: Sequence[Pixels] | Pixels | None = None,
    ignored: Sequence[Pixels] | Pixels | None = None,
    *,
    memory_mb: float,
    resamples: int = 1000,
    threads: int | None = None,
    track: Track = lambda items, description: items,
) -> Measurement:
    """Return the metrics of `image_metrics` and, with maps and masks, of `pixel_metrics`.

    scores [N], labels [N].  maps, masks: sequences of [H, W] that may read each image from disk, up to four times.
    ignored: likewise bool, or None: pixels that no pixel metric counts; an image stays what its label says.
    memory_mb: maps that take more (N times the first one) are measured in one pass with certified error bounds.
    resamples: of the bootstrap over test images; 0 leaves the intervals out.  threads: None: one for each CPU.  track:
    wraps a range of images to show how far it is.  Raises ValueError as these functions do.

    >>> import numpy as np
    >>> measure(np.array([0.1, 0.4, 0.6, 0.8]), np.array([0, 0, 1, 1]), memory_mb=0).intervals["image_ap"]
    (nan, nan)
    """
    metrics = image_metrics(scores, labels)
    intervals: dict[str, tuple[float, float]] = {}
    if resamples:
        intervals = image_intervals(scores, labels, resamples=resamples, seed=SEED, level=LEVEL)
    if maps is None or masks is None:
        return Measurement(metrics, intervals=intervals, resamples=resamples, curves=curves(scores, labels, None))
    limits, threads = check_limits(FPR_LIMITS), threads or os.cpu_count() or 1
    bounds: dict[str, float] = {}
    fits = len(maps) * maps[0].nbytes <= memory_mb * 2**20
    if fits:
        values, curve = pixel_metrics_and_curve(maps, masks, limits, threads, ignored=ignored)
    else:
        values, bounds, curve = _streamed(maps, masks, ignored, track)
    if resamples:
        intervals |= dict.fromkeys(values, (math.nan, math.nan))
    if resamples and curve:
        drawn: dict[str, Any] = {"resamples": resamples, "seed": SEED, "level": LEVEL, "threads": threads}
        intervals |= pixel_intervals(maps, masks, values, curve, limits, ignored=ignored, track=track, **drawn)
    how, shown = "exact" if fits else "streaming", curves(scores, labels, curve)
    return Measurement(metrics | values, how, bounds, intervals, resamples, curves=shown)


def _streamed(
    maps: Sequence[Pixels], masks: Sequence[Pixels], ignored: Sequence[Pixels] | None, track: Track
) -> tuple[dict[str, float], dict[str, float], Curve | None]:
    state = StreamingPixelMetrics(FPR_LIMITS)
    for i in track(range(len(maps)), "measuring"):
        others = of_image(ignored, i)
        state.update([maps[i]], [masks[i]], None if others is None else [others])
    found = state.compute()
    values = {key: value for key, value in found.items() if not key.endswith("_bound")}
    return values, {key: found[f"{key}_bound"] for key in values}, state.curve()
