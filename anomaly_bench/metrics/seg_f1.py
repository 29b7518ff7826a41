"""SegF1 (Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025): F1 of all test pixels at one given threshold.

The threshold comes from normal images.  The best over all thresholds needs the test images' masks: it is
`pixel_f1_max`, an oracle, and no SegF1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inputs import Pixels, check_image, check_lengths, of_image, to_numpy, undefined


def seg_f1(
    maps: Sequence[Pixels] | Pixels,
    masks: Sequence[Pixels] | Pixels,
    threshold: float,
    *,
    ignored: Sequence[Pixels] | Pixels | None = None,
) -> float:
    """Return 2 TP / (2 TP + FP + FN) over the pixels of all images, in [0, 1]; a pixel above the threshold is marked.

    maps, masks, ignored: as for `pixel_metrics`; each is read once.  threshold: finite, compared in float64.  Without
    an anomalous pixel the value is nan with an UndefinedMetricWarning.  Raises ValueError as `pixel_metrics` does.

    >>> seg_f1([np.array([[0.1, 0.9, 0.6]])], [np.array([[0, 1, 0]])], 0.5)
    0.6666666666666666
    """
    check_lengths(maps, masks, ignored)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold {threshold}; it must be finite")
    hits = marked = anomalous = 0
    for i in range(len(maps)):
        scores, mask, others = check_image(i, maps[i], masks[i], of_image(ignored, i))
        above = to_numpy(scores).astype(np.float64) > threshold
        if others is not None:
            above &= ~others
        hits += int(np.count_nonzero(above & mask))
        marked += int(np.count_nonzero(above))
        anomalous += int(np.count_nonzero(mask))
    if not anomalous:
        return undefined(["seg_f1"], "no image has an anomalous pixel")["seg_f1"]
    return 2 * hits / (marked + anomalous)
