"""How far a metric may move with another draw of test images: percentile bootstrap intervals, seeded.

Images are drawn, never pixels: those of one image are no independent evidence.  Images with and without a defect are
drawn separately, each kind with replacement to its own number, so that every replicate has both.  All metrics come from
counts that add up over images: integer weights of the images are a replicate, and a matrix product gives many.  They
depend on seed and position, so another order of the images gives other, equally good bounds.

Image metrics are exact in each replicate.  For pixel metrics an image is reduced to counts on both sides of at most
THRESHOLDS anomalous scores: exact where there are no more distinct ones, else straight lines fill the gaps.  What the
lines change on the original images is known, and every replicate is shifted by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .pixel import AUPIMO_FPR, Curve
from .ranks import Array, distinct
from .regions import Defects, Pixels, checked, defects, host, native, normal_pixels, per_image_pro

THRESHOLDS = 512  # half of them at equal steps of recall, half around equal ratios of the false-positive rate
LOWEST_FPR = 1e-7  # where these ratios begin: well below the rates of AUPIMO
CELLS = 2**18  # numbers in each array of a batch of replicates: 2 MiB

Values = dict[str, Array]  # [B] of each metric
Track = Callable[[Sequence[int], str], Iterable[int]]  # wraps a range of images to show how far it is


class Histograms(NamedTuple):
    """What reaches M cuts, image by image: above everything, > t and >= t of each threshold t from the highest, all."""

    good: Array  # [G, M] pixels of the images without a defect
    bad: Array  # [D, 3, M] of the others: normal pixels, anomalous ones, and those by 1 / |region|
    pro: Array  # [D, 2] per-image PRO and 1; both 0 for an image without a normal pixel


def image_intervals(
    scores: Array, labels: Array, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """(low, high) of each of `image_metrics`; scores [N] and labels [N] as that function has checked them.

    resamples: how many replicates, > 0.  seed: >= 0, the same one gives the same draws on every machine.  level: of
    confidence, in (0, 1).  With one class only, all bounds are nan.  Raises ValueError outside these ranges.
    """
    drawn = image_replicates(scores, labels, resamples=resamples, seed=seed)
    return {name: _interval(values, level) for name, values in drawn.items()}


def image_replicates(scores: Array, labels: Array, *, resamples: int, seed: int) -> Values:
    """[resamples] of each of `image_metrics`; arguments as for `image_intervals`.

    Runs with the same labels in the same order get the same draws, so that their replicates are pairs.
    """
    scores, anomalous = native(host(scores)), host(labels) != 0
    strata = int(anomalous.sum()), int((~anomalous).sum())
    scores = np.concatenate([scores[anomalous], scores[~anomalous]])
    order = np.argsort(scores)[::-1]
    last = np.cumsum(distinct(scores[order])[1]) - 1  # of each run of ties

    def replicates(bad: Array, good: Array) -> Values:
        weights = np.concatenate([bad, good], axis=1)[:, order]
        every, true = (np.cumsum(w, axis=1)[:, last] for w in (weights, weights * (order < strata[0])))
        return dict(zip(("image_auroc", "image_ap", "image_f1_max"), ranked(true, every - true), strict=True))

    return _all(replicates, strata, resamples, seed)


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
) -> dict[str, tuple[float, float]]:
    """(low, high) of each of `values`, the metrics that `curve` comes with.

    maps, masks: as for `pixel_metrics`; each image is asked for once.  limits: {"aupro_0.3": 0.3, ...}.  The rest as
    for `image_intervals`.  Bounds lie in [0, 1] and are nan where the value is.  A replicate in which a metric is
    undefined is left out of its interval: where no image is good, one may have images without a normal pixel only.
    Memory above the inputs: 50 kB for each image with a defect, 16 kB for each other one, and 40 MB.
    """
    seen = histograms(maps, masks, chosen(curve), track)
    strata, replicates = (len(seen.bad), len(seen.good)), partial(resampled, seen, limits=limits)
    original = replicates(*(np.ones((1, n)) for n in strata))
    drawn = _all(replicates, strata, resamples, seed, columns=seen.good.shape[1])
    return {name: _interval(drawn[name] + (value - original[name]), level) for name, value in values.items()}


def draws(strata: Sequence[int], resamples: int, seed: int, rows: int) -> Iterator[list[Array]]:
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
    if len(curve.thresholds) <= THRESHOLDS:
        return curve.thresholds[::-1]
    recall = np.linspace(1, curve.anomalous, THRESHOLDS // 2)
    rates = np.geomspace(max(1, LOWEST_FPR * curve.normal), curve.normal, THRESHOLDS // 4)
    below = np.searchsorted(curve.false, rates)  # with its neighbour above: few normal pixels make big steps there
    at = np.concatenate([np.searchsorted(curve.true, recall), below, below - 1])
    return curve.thresholds[np.unique(np.clip(at, 0, len(curve.thresholds) - 1))][::-1]


def histograms(maps: Sequence[Pixels], masks: Sequence[Pixels], thresholds: Array, track: Track) -> Histograms:
    """One pass over the images; thresholds [K] ascending."""
    good, bad, pro = [], [], []
    for i in track(range(len(maps)), "bootstrap"):
        scores, mask = checked(i, maps[i], masks[i])
        found, normal = defects(scores, mask), np.sort(host(normal_pixels(scores, mask)))
        below = np.stack([np.searchsorted(normal, thresholds, side=side) for side in ("left", "right")], axis=1)
        false = np.concatenate([[0.0], len(normal) - below.ravel()[::-1], [len(normal)]])
        if len(found.scores):
            bad.append([false, *_reaching(found, thresholds)])
            pro.append((per_image_pro(scores, found), 1) if len(normal) else (0, 0))
        else:
            good.append(false)
    return Histograms(np.reshape(good, (-1, len(false))), np.reshape(bad, (-1, 3, len(false))), np.array(pro, float))


def _reaching(found: Defects, thresholds: Array) -> Iterator[Array]:
    """[M] anomalous pixels of one image that reach each cut: their number, then by 1 / |region|."""
    below, reached = (np.searchsorted(thresholds, found.scores, side=side) for side in ("left", "right"))
    passed, cuts = below + reached, 2 * len(thresholds) + 1  # [A] how many cuts, from the lowest
    shares = np.bincount(passed, minlength=cuts), np.bincount(passed, 1 / found.sizes[found.region], cuts)
    return (np.cumsum(np.append(0.0, share[::-1])) for share in shares)


@np.errstate(invalid="ignore", divide="ignore")  # undefined is nan
def resampled(seen: Histograms, bad: Array, good: Array, limits: Mapping[str, float]) -> Values:
    """All pixel metrics of B replicates in which the images count so many times: bad [B, D], good [B, G]."""
    rate = good @ seen.good  # [B, M]
    normal, true, region = np.moveaxis(np.tensordot(bad, seen.bad, axes=1), 1, 0)  # [B, M] each
    false = rate + normal
    values = dict(zip(("pixel_auroc", "pixel_ap", "pixel_f1_max"), ranked(true, false, np.s_[1::2]), strict=True))
    values |= {name: aupro(false, region / region[:, -1:], limit) for name, limit in limits.items()}
    pixels = seen.bad[:, 1]  # [D, M] anomalous ones
    overlap = (bad / pixels[:, -1]) @ pixels / bad.sum(axis=1, keepdims=True)  # [B, M] mean share of an image's
    return values | {"pro_per_image": np.divide(*(bad @ seen.pro).T), "aupimo": aupimo(rate, overlap)}


@np.errstate(invalid="ignore")
def ranked(true: Array, false: Array, spread: slice = np.s_[:0]) -> tuple[Array, Array, Array]:
    """AUROC, AP and F1-max [B] from counts at cuts, [B, M] up to all there are; nan without one of the kinds.

    spread: the cuts that a straight line leads to, with the precision of its middle; at the others, one score enters.
    """
    step, more = np.diff(true, prepend=0), np.diff(false, prepend=0)
    pairs = true[:, -1] * false[:, -1]
    nothing = np.where(pairs > 0, 0, np.nan)
    auroc = 1 - np.sum(step * (false - more / 2), axis=1) / pairs
    f1 = np.max(2 * true / (true[:, -1:] + true + false), axis=1)
    hits, misses = true.copy(), false.copy()
    hits[:, spread] -= step[:, spread] / 2
    misses[:, spread] -= more[:, spread] / 2
    precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=step > 0)
    return auroc + nothing, np.sum(step * precision, axis=1) / true[:, -1] + nothing, f1 + nothing


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


def _all(
    replicates: Callable[[Array, Array], Values], strata: tuple[int, int], resamples: int, seed: int, columns: int = 1
) -> Values:
    rows = max(1, CELLS // max(columns, sum(strata)))
    parts = [replicates(*weights) for weights in draws(strata, resamples, seed, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(replicates: Array, level: float) -> tuple[float, float]:
    """The percentiles that leave out the same share of the defined replicates on both sides."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is outside (0, 1)")
    defined = np.clip(replicates[~np.isnan(replicates)], 0, 1)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)
