"""The metrics of `pixel_metrics` in one pass over the images and at most 10 MB, each with a certified error bound.

A score becomes a 64-bit key in the order of the scores, and all that is kept is a histogram over key >> shift, with the
smallest shift at which no more than `max_bins` bins are occupied.  So bins lie where scores lie, whatever their range,
and few distinct scores are not rounded at all.  Any order and any tree of merges end in the same bits:
1. a coarser histogram is a function of a finer one and commutes with addition, and every sum is of integers;
2. some of the pixels never occupy more bins than all of them do, so no step shifts further than the last one must.

A bin with one distinct score (`pure`) is a tie, as the metrics define it.  Inside any other bin each order is possible,
and an interval goes from the worst to the best: areas have its anomalous pixels at its lower or upper end.  With T
anomalous and F normal pixels above a bin, a and n in it, AP adds up f(j) = (T + j) / (T + j + F + n), j = 1..a, at the
worst, which is concave in j and so at least a (f(1) + f(a)) / 2 in all; and at best a times (T + a) / (T + a + F).
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from . import aupimo
from .inputs import Array, Pixels, check_image, check_lengths, check_limits, of_image, to_numpy, undefined
from .per_image_pro import per_image_pro, why_no_mean
from .pixel import Curve, pixel_names, why_undefined
from .regions import counted_pixels, defects, normal_pixels
from .streaming_bins import (
    ANOMALOUS,
    GOOD,
    IMAGE,
    NORMAL,
    REGION,
    UNIT,
    Bins,
    counted,
    joined,
    of_defects,
    of_normal,
    runs,
)

SLACK = 1e-12  # of float64: terms >= 0 that make at most 1, each rounded less than 100 times, err by 1.2e-14 at most
NONE = (math.nan, math.nan)


class StreamingPixelMetrics:
    """`pixel_metrics` with a state of at most 10 MB for any number of images; it can be pickled, and merged.

    fpr_limits: in (0, 1].  ValueError for others, and for 2^27 regions; exact to 2^31 pixels an image and 2^52 in all.
    Working memory: about 250 MB, and of one image 20 bytes a pixel, 300 bytes an anomalous one.

    >>> metrics = StreamingPixelMetrics(fpr_limits=[0.3])
    >>> for scores, mask in ([[0.1, 0.9]], [[0, 1]]), ([[0.2, 0.3]], [[0, 0]]):
    ...     metrics.update([scores], [mask])
    >>> metrics.compute()["aupro_0.3"]
    1.0
    """

    max_bins = 150_000  # 49 bytes each
    max_waiting = 2_500_000  # bytes of pixels that wait to be counted together

    def __init__(self, fpr_limits: Sequence[float] = (0.3, 0.05)) -> None:
        self._limits = check_limits(fpr_limits)
        self._images = self._regions = self._shift = 0
        self._bins = Bins(np.empty(0, np.uint64), np.empty(0, bool), np.empty((5, 0), np.int64))
        self._defects = self._bins  # anomalous pixels that are not counted yet
        self._normal = [np.empty(0, np.uint8)] * 2  # normal ones: of images with a defect, and without
        self._pro = self._pros = 0  # sum of the per-image PRO in units of 2^-100, and of how many images
        self._flat = self._first_flat = 0  # images whose PRO curve has no width, and the first of them

    @property
    def nbytes(self) -> int:
        """The bytes of the state, at most 10^7; its single numbers are taken to need 1024."""
        return 1024 + sum(array.nbytes for array in (*self._bins, *self._defects, *self._normal))

    def update(
        self,
        maps: Sequence[Pixels] | Pixels,
        masks: Sequence[Pixels] | Pixels,
        ignored: Sequence[Pixels] | Pixels | None = None,
    ) -> None:
        """Add images; maps, masks and ignored pixels as for `pixel_metrics`, each is read once.

        Raises ValueError as `pixel_metrics` does, the images counted over all updates, and for scores that float64
        cannot hold.  After an error the state is as before, without any image of this update.
        """
        check_lengths(maps, masks, ignored)
        after = copy.copy(self)
        for i in range(len(maps)):
            after._add(to_numpy(maps[i]), masks[i], of_image(ignored, i))
        vars(self).update(vars(after))

    def merge(self, other: StreamingPixelMetrics) -> None:
        """Add the images of `other`, numbered after these.  Raises ValueError where the FPR limits differ."""
        if self._limits != other._limits:
            raise ValueError(f"fpr_limits: {[*other._limits]} cannot be merged into {[*self._limits]}")
        after = copy.copy(self)
        after._first_flat = self._first_flat if self._flat else self._images + other._first_flat
        for name in ("_images", "_regions", "_pro", "_pros", "_flat"):
            setattr(after, name, getattr(self, name) + getattr(other, name))
        after._shift = max(self._shift, other._shift)
        after._defects = joined(self._defects, other._bins, other._defects)
        after._normal = [np.concatenate(pair) for pair in zip(self._normal, other._normal, strict=True)]
        after._settle()
        vars(self).update(vars(after))

    def compute(self) -> dict[str, float]:
        """Return what `pixel_metrics` returns, and for each name `<name>_bound` >= |value - exact value|."""
        bins, above, total = self._steps()
        normal, anomalous, _, good, _ = total.tolist()
        if not anomalous or not normal:
            intervals = dict.fromkeys(undefined(pixel_names(self._limits), why_undefined(anomalous)), NONE)
        else:
            intervals = _ranking(bins, above, total)
            intervals |= {name: _aupro(bins, above, total, limit) for name, limit in self._limits.items()}
            intervals |= {"pro_per_image": NONE, "aupimo": _aupimo(bins, above, total) if good else NONE}
            if reason := why_no_mean(self._pros, self._flat, self._first_flat):
                undefined(["pro_per_image"], reason)
            else:  # an image adds up the weights of its anomalous pixels one by one, and fewer than 1000 other terms
                mean, error = self._pro / (self._pros << 100), (anomalous / self._pros + 1000) * 2.0**-52
                intervals["pro_per_image"] = mean - error, mean + error
            if not good:
                undefined(["aupimo"], "no image is without a defect")
        values = {name: (low + high) / 2 for name, (low, high) in intervals.items()}
        return values | {f"{name}_bound": (high - low) / 2 + SLACK for name, (low, high) in intervals.items()}

    def curve(self) -> Curve | None:
        """Return exact counts at the lower ends of bins with anomalous pixels; None without both kinds of pixels."""
        (key, _, counts), above, total = self._steps()
        (normal, anomalous, weight), (false, true, overlap) = total[:3].tolist(), (above + counts)[:3]
        thresholds = (key ^ ((key >> 63) - 1 | 2**63)).view(np.float64)  # the inverse of _keys
        return Curve(thresholds, true, false, overlap / weight, anomalous, normal) if normal and anomalous else None

    def _add(self, scores: Array, mask: Pixels, ignored: Pixels | None) -> None:
        scores, mask, others = check_image(self._images, scores, mask, ignored)
        rounded = scores.astype(np.float64, copy=False)
        if (rounded != scores if scores.dtype.kind == "f" else abs(rounded) >= 2**53).any():
            raise ValueError(f"image {self._images}: float64 cannot hold each score; integers must be below 2^53")
        found, normal = defects(scores, mask), normal_pixels(scores, mask, others)
        if not (good := not len(found.scores)):
            self._defects = joined(self._defects, of_defects(found))
            self._regions += len(found.sizes)
        if not good and len(normal):
            if math.isnan(pro := per_image_pro(counted_pixels(scores, others), found)):
                self._flat, self._first_flat = self._flat + 1, self._first_flat if self._flat else self._images
            else:
                self._pro, self._pros = self._pro + int(math.ldexp(pro, 100)), self._pros + 1
        for piece in np.array_split(normal, len(normal) // 2**18 + 1):
            self._normal = [np.concatenate([w, piece]) if g == good else w for g, w in enumerate(self._normal)]
            if self.nbytes > self.max_waiting + 49 * len(self._bins.key):
                self._settle()
        self._images += 1

    def _settle(self) -> None:
        """Count what waits, and coarsen until the bins are few enough."""
        if self._regions >= 2**63 // UNIT:
            raise ValueError(f"{self._regions} regions; fewer than {2**63 // UNIT} can be counted")
        waiting = [of_normal(scores, self._shift, good) for good, scores in enumerate(self._normal)]
        bins = counted(joined(self._bins, self._defects, *waiting), self._shift)
        if len(bins.key) > self.max_bins:
            self._shift = bisect_left(range(64), -self.max_bins, self._shift, key=lambda s: -len(runs(bins.key, s)[0]))
            bins = counted(bins, self._shift)
        self._bins, self._defects, self._normal = bins, Bins(*(a[..., :0] for a in bins)), [np.empty(0, np.uint8)] * 2

    def _steps(self) -> tuple[Bins, Array, Array]:
        """Return the B bins with anomalous pixels, highest first; [5, B] counts of all higher bins; [5] all counts."""
        self._settle()
        held, total = np.flatnonzero(self._bins.counts[ANOMALOUS])[::-1], self._bins.counts.sum(1)
        above = total[:, None] - np.cumsum(self._bins.counts, 1)[:, held]
        return Bins(*(array[..., held] for array in self._bins)), above, total


def _ranking(bins: Bins, higher: Array, total: Array) -> dict[str, tuple[float, float]]:
    """Bound AUROC, AP and F1-max.

    For AUROC, an anomalous pixel counts with the share of normal ones below it; for AP, with its precision.
    """
    (normal, anomalous), above, first = total[:2], higher[NORMAL], higher[ANOMALOUS] + 1
    false, true = (higher + bins.counts)[:2]
    worst, best, precision = (normal - false) / normal, (normal - above) / normal, true / (true + false)
    low, high = (2 * true / (anomalous + true + n) for n in (false, np.where(bins.pure, false, above)))
    auroc = _interval(bins, total, ANOMALOUS, worst, (worst + best) / 2, best)
    worst, best = (first / (first + false) + precision) / 2, true / (true + above)
    ap = _interval(bins, total, ANOMALOUS, worst, precision, best)
    return {"pixel_auroc": auroc, "pixel_ap": ap, "pixel_f1_max": (float(low.max()), float(high.max()))}


def _aupro(bins: Bins, higher: Array, total: Array, limit: float) -> tuple[float, float]:
    """Bound AUPRO: an anomalous pixel counts with the width from its rate to the limit, as a share of the limit."""
    above, normal, cut = higher[NORMAL], bins.counts[NORMAL], limit * total[NORMAL]
    worst, best = np.maximum(cut - above - normal, 0), np.maximum(cut - above, 0)
    tie = np.where(above + normal <= cut, cut - above - normal / 2, best**2 / (2 * np.maximum(normal, 1)))
    return _interval(bins, total, REGION, worst / cut, tie / cut, best / cut)


def _aupimo(bins: Bins, higher: Array, total: Array) -> tuple[float, float]:
    """Bound AUPIMO: an anomalous pixel counts with the width from its rate to the highest, on a logarithmic axis."""
    above, normal = higher[GOOD], bins.counts[GOOD]
    low, high = (rate * total[GOOD] for rate in aupimo.FPR_RANGE)
    start, stop = np.clip(above, low, high), np.clip(above + normal, low, high)
    worst, best = np.log(high / stop), np.log(high / start)
    line = (stop - start - above * np.log1p((stop - start) / start)) / np.maximum(normal, 1)  # where scores tie
    return _interval(bins, total, IMAGE, *(value / math.log(high / low) for value in (worst, worst + line, best)))


def _interval(bins: Bins, total: Array, row: int, worst: Array, tie: Array, best: Array) -> tuple[float, float]:
    """Return sums of a value in [0, 1] over the anomalous pixels by their weight, in the worst and the best order."""
    share = bins.counts[row] / total[row]
    low, high = (float(np.sum(share * np.where(bins.pure, tie, value))) for value in (worst, best))
    return low, high if row == ANOMALOUS else min(high + 1 / UNIT, 1.0)
