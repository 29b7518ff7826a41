"""AUROC, average precision and the best F1: from counts, or from curves of bootstrap replicates."""

from __future__ import annotations

import numpy as np

from .counting import Ranks
from .inputs import Array


def ranking_metrics(ranks: Ranks, prefix: str) -> dict[str, float]:
    """Return `<prefix>_auroc`, `<prefix>_ap` and `<prefix>_f1_max`."""
    values = (auroc(ranks), average_precision(ranks), f1_max(ranks))
    return dict(zip(ranking_names(prefix), values, strict=True))


def ranking_names(prefix: str) -> list[str]:
    """Return the names of `ranking_metrics`."""
    return [f"{prefix}_auroc", f"{prefix}_ap", f"{prefix}_f1_max"]


def auroc(ranks: Ranks) -> float:
    """Return the area under the ROC curve = P(anomalous > normal) + P(tie) / 2, in [0, 1]; exact but for one division.

    >>> auroc(Ranks(anomalous=2, normal=2, equal=np.array([1, 1]), true=np.array([1, 2]),  # anomalous 3, 1; normal 2, 0
    ...             above=np.array([0, 1]), false=np.array([0, 1])))
    0.75
    """
    pairs = 2 * ranks.anomalous * ranks.normal
    return (pairs - int(np.sum(ranks.equal * (ranks.above + ranks.false)))) / pairs


def average_precision(ranks: Ranks) -> float:
    """Return the sum of precision times the step in recall, in [0, 1]; as scikit-learn, without interpolation."""
    return float(np.sum(ranks.equal * (ranks.true / (ranks.true + ranks.false)))) / ranks.anomalous


def f1_max(ranks: Ranks) -> float:
    """Return the best F1 = 2 TP / (2 TP + FP + FN), in [0, 1], over all thresholds: the best is an anomalous score."""
    return float(np.max(2 * ranks.true / (ranks.anomalous + ranks.true + ranks.false)))


@np.errstate(invalid="ignore")
def ranking_metrics_of_curves(
    true: Array, false: Array, prefix: str, interpolated: slice = np.s_[:0]
) -> dict[str, Array]:
    """Return each of `ranking_metrics` [B] for B curves of counts [B, M] that rise to all there are.

    interpolated: the points that a straight line leads to, with the precision of its middle; at the others, one score
    enters.  nan without anomalous or without normal scores.
    """
    step, more = np.diff(true, prepend=0), np.diff(false, prepend=0)
    pairs = true[:, -1] * false[:, -1]
    nan_if_undefined = np.where(pairs > 0, 0, np.nan)
    area = 1 - np.sum(step * (false - more / 2), axis=1) / pairs
    f1 = np.max(2 * true / (true[:, -1:] + true + false), axis=1)
    hits, misses = true.copy(), false.copy()
    hits[:, interpolated] -= step[:, interpolated] / 2
    misses[:, interpolated] -= more[:, interpolated] / 2
    precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=step > 0)
    values = (area, np.sum(step * precision, axis=1) / true[:, -1], f1)
    return {name: value + nan_if_undefined for name, value in zip(ranking_names(prefix), values, strict=True)}
