"""How far a metric may move with other test images: bootstrap intervals, seeded.

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

from .aupimo import aupimo_of_curves
from .aupro import aupro_of_curves
from .auroc import ranking_metrics_of_curves
from .auroc_interval import auroc_interval
from .bootstrap_interval import bootstrap_interval
from .counting import Buckets, Tally, count, distinct
from .inputs import Array, Pixels, check_image, map_in_threads, of_image, to_native, to_numpy
from .per_image_pro import per_image_pro
from .pixel import Curve
from .regions import Defects, counted_pixels, defects, normal_pixels

THRESHOLDS = 512  # half of them at equal steps of recall, half around equal ratios of the false-positive rate
LOWEST_FPR = 1e-7  # where these ratios begin: well below the rates of AUPIMO
CELLS = 2**18  # numbers in each array of a batch of replicates: 2 MiB

Values = dict[str, Array]  # [B] of each metric
Replicates = Callable[[Array, Array], Values]  # how often each anomalous and each normal image counts, [B, n] each
Track = Callable[[Sequence[int], str], Iterable[int]]  # wraps a range of images to show how far it is


class Histograms(NamedTuple):
    """What reaches M cuts, image by image: above everything, > t and >= t of each threshold t from the highest, all."""

    normal: Array  # [G, M] pixels of the images without a defect
    anomalous: Array  # [D, 3, M] of the others: normal pixels, anomalous ones, and those by 1 / |region|
    pro: Array  # [D, 2] per-image PRO and 1; both 0 for an image without a normal pixel


def image_intervals(
    scores: Array, labels: Array, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each of `image_metrics`: of the AUROC by `auroc_interval`, of the others by resampling.

    A bootstrap of an AUROC near 1 is far too narrow.  Arguments and errors as of `resampled_intervals`.
    """
    found = resampled_intervals(scores, labels, resamples=resamples, seed=seed, level=level)
    return found | {"image_auroc": auroc_interval(to_native(to_numpy(scores)), to_numpy(labels) != 0, level)}


def resampled_intervals(
    scores: Array, labels: Array, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each of `image_metrics`; scores [N] and labels [N] as that function has checked them.

    resamples: how many replicates, > 0.  seed: >= 0, the same one gives the same draws on every machine.  level: of
    confidence, in (0, 1).  With one class only, all bounds are nan.  Raises ValueError outside these ranges.

    >>> low, high = resampled_intervals(np.array([0.1, 0.7, 0.6, 0.8]), np.array([0, 0, 1, 1]))["image_ap"]
    >>> low < 5 / 6 < high
    True
    """
    replicates, strata = _image_counts(scores, labels)
    values, drawn = _original(replicates, strata), _all(replicates, strata, resamples, seed)
    return {name: bootstrap_interval(values[name], drawn[name], strata, level) for name in drawn}


def image_replicates(scores: Array, labels: Array, *, resamples: int, seed: int) -> Values:
    """Return [resamples] values of each of `image_metrics`; arguments as for `image_intervals`.

    Runs with the same labels in the same order get the same draws, so that their replicates are pairs.
    """
    return _all(*_image_counts(scores, labels), resamples, seed)


def _image_counts(scores: Array, labels: Array) -> tuple[Replicates, tuple[int, int]]:
    """Return what gives image metrics of weights [B, anomalous] and [B, normal], and how many images there are."""
    scores, anomalous = to_native(to_numpy(scores)), to_numpy(labels) != 0
    strata = int(anomalous.sum()), int((~anomalous).sum())
    scores = np.concatenate([scores[anomalous], scores[~anomalous]])
    order = np.argsort(scores)[::-1]
    last = np.cumsum(distinct(scores[order])[1]) - 1  # of each run of ties

    def replicates(anomalous: Array, normal: Array) -> Values:
        weights = np.concatenate([anomalous, normal], axis=1)[:, order]
        both, true = (np.cumsum(w, axis=1)[:, last] for w in (weights, weights * (order < strata[0])))
        return ranking_metrics_of_curves(true, both - true, "image")

    return replicates, strata


def pixel_intervals(
    maps: Sequence[Pixels],
    masks: Sequence[Pixels],
    values: Mapping[str, float],
    curve: Curve,
    limits: Mapping[str, float],
    *,
    ignored: Sequence[Pixels] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    threads: int = 1,
    track: Track = lambda items, description: items,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each of `values`, the metrics that `curve` comes with.

    maps, masks, ignored: as for `pixel_metrics`; each image is read once.  limits: {"aupro_0.3": 0.3, ...}.  threads:
    any number gives the same bits.  The rest as for `image_intervals`.  Bounds lie in [0, 1] and are nan where the
    value is, or is 0 or 1.  A replicate in which a metric is undefined is left out of its interval: where no image is
    good, one may have images without a normal pixel only.  Memory above the inputs: 25 kB for each image with a defect,
    8 kB for each other one, and 40 MB.
    """
    counts = histograms(maps, masks, choose_thresholds(curve), track, ignored, threads, curve.per_image_pro)
    strata, replicates = (len(counts.anomalous), len(counts.normal)), partial(weighted_metrics, counts, limits=limits)
    original = _original(replicates, strata)
    drawn = _all(replicates, strata, resamples, seed, counts.normal.shape[1], threads)
    shifted = {name: drawn[name] + (value - original[name]) for name, value in values.items()}
    return {name: bootstrap_interval(value, shifted[name], strata, level) for name, value in values.items()}


def draw_weights(strata: Sequence[int], resamples: int, seed: int, rows: int) -> Iterator[list[Array]]:
    """Yield how often each of the n images of a stratum is drawn: [<= rows, n] for each, every row sums to n."""
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} is below 1")
    streams = [np.random.Generator(np.random.PCG64([seed, stratum])) for stratum in range(len(strata))]
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        drawn = [stream.integers(0, n, (count, n)) for stream, n in zip(streams, strata, strict=True)]
        cells = [images + np.arange(count)[:, None] * images.shape[1] for images in drawn]
        yield [np.bincount(c.ravel(), minlength=c.size).reshape(c.shape).astype(np.float64) for c in cells]


def choose_thresholds(curve: Curve) -> Array:
    """Return [K] thresholds out of the curve's, ascending: all of them where there are few."""
    if len(curve.thresholds) <= THRESHOLDS:
        return curve.thresholds[::-1]
    recall = np.linspace(1, curve.anomalous, THRESHOLDS // 2)
    rates = np.geomspace(max(1, LOWEST_FPR * curve.normal), curve.normal, THRESHOLDS // 4)
    below = np.searchsorted(curve.false, rates)  # with its neighbour above: few normal pixels make big steps there
    at = np.concatenate([np.searchsorted(curve.true, recall), below, below - 1])
    return curve.thresholds[np.unique(np.clip(at, 0, len(curve.thresholds) - 1))][::-1]


def histograms(
    maps: Sequence[Pixels],
    masks: Sequence[Pixels],
    thresholds: Array,
    track: Track,
    ignored: Sequence[Pixels] | None = None,
    threads: int = 1,
    pros: Mapping[int, float] | None = None,
) -> Histograms:
    """Count in one pass over the images; thresholds [K] ascending.  pros: `per_image_pro`, where it is known."""
    buckets = Buckets(thresholds)

    def one(i: int) -> tuple[Array, Array | None, tuple[float, int]]:
        scores, mask, others = check_image(i, maps[i], masks[i], of_image(ignored, i))
        found = defects(scores, mask)
        normal, below, reached = count(Tally(buckets).add(normal_pixels(scores, mask, others)))
        false = np.concatenate([[0.0], normal - np.stack([below, reached], axis=1).ravel()[::-1], [normal]])
        if not len(found.scores):
            return false, None, (0, 0)
        reaching = np.stack([false, *_reaching(found, thresholds)])
        if not normal:
            return false, reaching, (0, 0)
        return false, reaching, (pros[i] if pros else per_image_pro(counted_pixels(scores, others), found), 1)

    columns = 2 * len(thresholds) + 2
    without, defective = np.empty((len(maps), columns)), np.empty((len(maps), 3, columns))  # rows not filled: no memory
    found: list[tuple[float, int]] = []
    images = map_in_threads(one, range(len(maps)), threads)
    for i, (false, reaching, pro) in zip(track(range(len(maps)), "bootstrap"), images, strict=True):
        if reaching is None:
            without[i - len(found)] = false
        else:
            defective[len(found)] = reaching
            found.append(pro)
    rows = len(found)
    return Histograms(without[: len(maps) - rows], defective[:rows], np.reshape(found, (-1, 2)).astype(float))


def _reaching(found: Defects, thresholds: Array) -> Iterator[Array]:
    """Yield [M] anomalous pixels of one image that reach each cut: their number, then by 1 / |region|."""
    below, cuts = np.searchsorted(thresholds, found.scores), 2 * len(thresholds) + 1
    passed = 2 * below + (thresholds.take(below, mode="clip") == found.scores)  # [A] how many cuts, from the lowest
    shares = np.bincount(passed, minlength=cuts), np.bincount(passed, 1 / found.sizes[found.region], cuts)
    return (np.cumsum(np.append(0.0, share[::-1])) for share in shares)


@np.errstate(invalid="ignore", divide="ignore")  # undefined is nan
def weighted_metrics(counts: Histograms, anomalous: Array, normal: Array, limits: Mapping[str, float]) -> Values:
    """Return all pixel metrics of B replicates; anomalous [B, D], normal [B, G]: how often each image counts."""
    good = normal @ counts.normal  # [B, M] normal pixels of images without a defect
    beside, true, region = np.moveaxis(np.tensordot(anomalous, counts.anomalous, axes=1), 1, 0)  # [B, M] each
    false = good + beside
    values = ranking_metrics_of_curves(true, false, "pixel", interpolated=np.s_[1::2])
    values |= {name: aupro_of_curves(false, region / region[:, -1:], limit) for name, limit in limits.items()}
    pixels = counts.anomalous[:, 1]  # [D, M]
    share = (anomalous / pixels[:, -1]) @ pixels / anomalous.sum(axis=1, keepdims=True)  # [B, M] mean over images
    pro = np.divide(*(anomalous @ counts.pro).T)
    return values | {"pro_per_image": pro, "aupimo": aupimo_of_curves(good, share)}


def _original(replicates: Replicates, strata: tuple[int, int]) -> dict[str, float]:
    """Return the metrics in which each image counts once."""
    return {name: float(value[0]) for name, value in replicates(*(np.ones((1, n)) for n in strata)).items()}


def _all(
    replicates: Replicates, strata: tuple[int, int], resamples: int, seed: int, columns: int = 1, threads: int = 1
) -> Values:
    rows = max(1, CELLS // max(columns, sum(strata)))
    weights = draw_weights(strata, resamples, seed, rows)
    batches = list(map_in_threads(lambda drawn: replicates(*drawn), weights, threads))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
