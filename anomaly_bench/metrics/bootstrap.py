"""How far a metric may move with another draw of test images: percentile bootstrap intervals, seeded.

Images are drawn, never pixels: the pixels of one image are no independent evidence.  Images with and without a defect
are drawn separately, each kind with replacement to its own number, so that every replicate has both.  A replicate is
integer weights of the images, and every metric is made of counts that add up over images, so one matrix product gives
many replicates.  Weights depend on seed and position: another order of the images gives other, equally good bounds.

Image metrics are exact in each replicate.  For pixel metrics an image is reduced to counts on both sides of at most
THRESHOLDS anomalous scores: exact where there are no more distinct ones, else straight lines fill the gaps.  What the
lines change on the original images is known, and every replicate is shifted by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .pixel import AUPIMO_FPR, Curve
from .ranks import Array, distinct
from .regions import Defects, Pixels, checked, defects, host, native, normal_pixels, per_image_pro

THRESHOLDS = 512  # half of them at equal steps of recall, half at equal ratios of the false-positive rate
LOWEST_FPR = 1e-7  # where these ratios begin: well below the rates of AUPIMO
ROWS = 64  # replicates at a time

Interval = tuple[float, float]
Values = dict[str, Array]  # [B] of each metric
Track = Callable[[Sequence[int], str], Iterable[int]]  # wraps a range of images to show how far it is


class Histograms(NamedTuple):
    """What reaches each of M cuts, image by image: nothing, > t and >= t of each threshold t from the highest, all."""

    good: Array  # [G, M] pixels of the images without a defect
    bad: Array  # [D, 4, M] of the others: normal pixels, anomalous ones, those by 1 / |region|, those by 1 / |image's|
    pro: Array  # [D, 2] per-image PRO and 1; both 0 for an image without a normal pixel


def image_intervals(
    scores: Array, labels: Array, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """(low, high) of each of `image_metrics`; scores [N] and labels [N] as that function has checked them.

    resamples: number of replicates.  seed: >= 0, the same one gives the same draws on every machine.  level: of
    confidence, in (0, 1).  With one class only, all bounds are nan.  Raises ValueError for resamples < 1 and a level
    outside.
    """
    scores, anomalous = native(host(scores)), host(labels) != 0
    strata = int(anomalous.sum()), int((~anomalous).sum())
    scores = np.concatenate([scores[anomalous], scores[~anomalous]])
    order = np.argsort(scores)[::-1]
    last = np.cumsum([0, *distinct(scores[order])[1]])  # where each run of ties ends

    def replicates(bad: Array, good: Array) -> Values:
        weights = np.concatenate([np.zeros((len(bad), 1)), np.concatenate([bad, good], axis=1)[:, order]], axis=1)
        every = np.cumsum(weights, axis=1)[:, last]
        true = np.cumsum(weights * np.append(0, order < strata[0]), axis=1)[:, last]
        numbers = ranked(true, every - true, spread=np.s_[:0])
        return dict(zip(("image_auroc", "image_ap", "image_f1_max"), numbers, strict=True))

    drawn = _all(replicates, strata, resamples, seed)
    return {name: _interval(numbers, level) for name, numbers in drawn.items()}


def pixel_intervals(
    maps: Sequence[Pixels],
    masks: Sequence[Pixels],
    values: Mapping[str, float],
    curve: Curve,
    limits: Mapping[str, float],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    track: Track = lambda items, description: items,
) -> dict[str, Interval]:
    """(low, high) of each of `values`, the metrics that `curve` comes with.

    maps, masks: as for `pixel_metrics`; each image is asked for once.  limits: {"aupro_0.3": 0.3, ...}.  The rest as
    for `image_intervals`.  Bounds lie in [0, 1] and are nan where the value is.  A replicate without a normal pixel
    has no metrics and is left out; it takes a test set with no good image and with images that are anomalous all over.
    Memory above the inputs: 70 kB for each image with a defect, 16 kB for each other one, and a few MB.
    """
    seen = histograms(maps, masks, chosen(curve), track)
    strata = len(seen.bad), len(seen.good)

    def replicates(bad: Array, good: Array) -> Values:
        return resampled(seen, bad, good, limits)

    original, drawn = replicates(*(np.ones((1, n)) for n in strata)), _all(replicates, strata, resamples, seed)
    return {name: _interval(drawn[name] + (value - original[name]), level) for name, value in values.items()}


def draws(strata: Sequence[int], resamples: int, seed: int, rows: int = ROWS) -> Iterator[list[Array]]:
    """How often each of the n images of a stratum is drawn: [<= rows, n] for each stratum, every row sums to n."""
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} is below 1")
    streams = [np.random.Generator(np.random.PCG64([seed, stratum])) for stratum in range(len(strata))]
    for first in range(0, resamples, rows):
        here = min(rows, resamples - first)
        drawn = [stream.integers(0, n, (here, n)) for stream, n in zip(streams, strata, strict=True)]
        cells = [images + np.arange(here)[:, None] * images.shape[1] for images in drawn]
        yield [np.bincount(c.ravel(), minlength=c.size).reshape(c.shape).astype(np.float64) for c in cells]


def chosen(curve: Curve) -> Array:
    """[K] thresholds out of the curve's, ascending: all of them where there are few."""
    last = len(curve.thresholds) - 1
    if last < THRESHOLDS:
        return curve.thresholds[::-1]
    recall = np.linspace(1, curve.anomalous, THRESHOLDS // 2)
    false = np.geomspace(max(1, LOWEST_FPR * curve.normal), curve.normal, THRESHOLDS // 2)
    at = np.concatenate([np.searchsorted(curve.true, recall), np.searchsorted(curve.false, false)])
    return curve.thresholds[np.unique(np.minimum(at, last))][::-1]


def histograms(maps: Sequence[Pixels], masks: Sequence[Pixels], thresholds: Array, track: Track) -> Histograms:
    """One pass over the images; thresholds [K] ascending."""
    good, bad, pro = [], [], []
    for i in track(range(len(maps)), "bootstrap"):
        scores, mask = checked(i, maps[i], masks[i])
        found, normal = defects(scores, mask), np.sort(host(normal_pixels(scores, mask)))
        below = np.stack([np.searchsorted(normal, thresholds, side=side) for side in ("left", "right")], axis=1)
        false = np.array([0, *(len(normal) - below.ravel()[::-1]), len(normal)], np.float64)
        if len(found.scores):
            bad.append(np.stack([false, *_reaching(found, thresholds)]))
            pro.append((per_image_pro(scores, found), 1) if len(normal) else (0, 0))
        else:
            good.append(false)
    cuts = 2 * len(thresholds) + 2
    return Histograms(np.reshape(good, (-1, cuts)), np.reshape(bad, (-1, 4, cuts)), np.array(pro, np.float64))


def _reaching(found: Defects, thresholds: Array) -> list[Array]:
    """[M] anomalous pixels of one image that reach each cut: their number, and by 1 / |region| and by 1 / |image's|."""
    passed = sum(np.searchsorted(thresholds, found.scores, side=side) for side in ("left", "right"))  # [A] cuts
    size = 2 * len(thresholds) + 1
    pixels, regions = np.bincount(passed, minlength=size), np.bincount(passed, 1 / found.sizes[found.region], size)
    rows = (np.cumsum([0, *weights[::-1]], dtype=np.float64) for weights in (pixels, regions))
    true, region = rows
    return [true, region, true / true[-1]]


def resampled(seen: Histograms, bad: Array, good: Array, limits: Mapping[str, float]) -> Values:
    """All pixel metrics of B replicates in which the images count so many times: bad [B, D], good [B, G]."""
    rate = good @ seen.good  # [B, M]
    normal, true, region, image = np.moveaxis(np.tensordot(bad, seen.bad, axes=1), 1, 0)  # [B, M] each
    false = rate + normal
    numbers = ranked(true, false, spread=np.s_[::2])
    values = dict(zip(("pixel_auroc", "pixel_ap", "pixel_f1_max"), numbers, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):  # undefined is nan; the last sums are regions and images
        values |= {name: aupro(false, region / region[:, -1:], limit) for name, limit in limits.items()}
        values["pro_per_image"] = np.divide(*(bad @ seen.pro).T)
        values["aupimo"] = aupimo(rate, image / image[:, -1:])
    return values


def ranked(true: Array, false: Array, spread: slice) -> tuple[Array, Array, Array]:
    """AUROC, AP and F1-max [B] from counts at cuts, [B, M] from 0 to all there are; nan without one of the kinds.

    spread: the steps from cut to cut that are straight lines, with the precision of their middle; in the others all
    pixels have the same score and enter together.
    """
    step, more = np.diff(true), np.diff(false)
    hits, misses = true[:, 1:].copy(), false[:, 1:].copy()
    pairs = true[:, -1] * false[:, -1]
    pairs[pairs == 0] = np.nan
    f1 = np.max(2 * hits / (true[:, -1:] + hits + misses), axis=1) + 0 * pairs
    auroc = 1 - np.sum(step * (misses - more / 2), axis=1) / pairs
    hits[:, spread] -= step[:, spread] / 2
    misses[:, spread] -= more[:, spread] / 2
    precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=step > 0)
    return auroc, np.sum(step * precision, axis=1) / true[:, -1] + 0 * pairs, f1


def aupro(x: Array, y: Array, limit: float) -> Array:
    """[B] mean height of the straight lines through (x, y) [B, M], for x from 0 to its share `limit`."""
    cut = limit * x[:, -1:]
    inside = x <= cut
    right = np.minimum(np.sum(inside, axis=1, keepdims=True), x.shape[1] - 1)
    (x0, y0), (x1, y1) = ([np.take_along_axis(v, at, axis=1) for v in (x, y)] for at in (right - 1, right))
    y = np.where(inside, y, y0 + (y1 - y0) * (cut - x0) / (x1 - x0))
    return np.sum(np.diff(np.minimum(x, cut)) * (y[:, 1:] + y[:, :-1]), axis=1) / (2 * cut[:, 0])


def aupimo(x: Array, y: Array) -> Array:
    """[B] mean height of the straight lines through (x, y) [B, M] over the logarithm of x, between AUPIMO's rates."""
    low, high = (rate * x[:, -1:] for rate in AUPIMO_FPR)
    inside, width = np.clip(x, low, high), np.diff(x)
    slope = np.divide(np.diff(y), width, out=np.zeros_like(width), where=width > 0)
    areas = (y[:, :-1] - slope * x[:, :-1]) * np.diff(np.log(inside)) + slope * np.diff(inside)
    return np.sum(areas, axis=1) / np.log(high / low)[:, 0]


def _all(replicates: Callable[[Array, Array], Values], strata: tuple[int, int], resamples: int, seed: int) -> Values:
    parts = [replicates(*weights) for weights in draws(strata, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(replicates: Array, level: float) -> Interval:
    """The percentiles that leave out the same share of the defined replicates on both sides."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is outside (0, 1)")
    defined = np.clip(replicates[~np.isnan(replicates)], 0, 1)
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
