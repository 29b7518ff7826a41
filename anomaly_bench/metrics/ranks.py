"""How many scores reach each anomalous score: the counts that AUROC, AP, F1-max and AUPRO are all made of.

A curve has one point for each distinct score, and tied scores enter together.  Between two neighbouring anomalous
scores only normal ones enter, so every area is a sum over the anomalous scores; the others are sorted bare.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class UndefinedMetricWarning(UserWarning):
    """A metric has no value on this input and is nan; the message says why."""


class Ranks(NamedTuple):
    """Integer counts at each distinct anomalous score, the highest score first."""

    anomalous: int  # scores in all
    normal: int
    equal: Array  # [D] anomalous scores of exactly this value
    true: Array  # [D] anomalous scores >= this one
    above: Array  # [D] normal scores > this one
    false: Array  # [D] normal scores >= this one


def rank(anomalous: Array, everything: Array) -> Ranks:
    """Count normal and anomalous scores around each anomalous one.

    anomalous [A]: descending.  everything [A + N]: ascending, of the same dtype, the anomalous scores among them.
    """
    last = np.flatnonzero(np.append(anomalous[1:] != anomalous[:-1], True))  # [D] the end of each run of ties
    true = last + 1
    equal = np.diff(true, prepend=0)
    start = np.searchsorted(everything, anomalous[last], side="left")
    stop = start + equal  # but where a normal score is tied, so that few need a second search
    tied = np.flatnonzero(everything[np.minimum(stop, len(everything) - 1)] == anomalous[last])
    stop[tied] = np.searchsorted(everything, anomalous[last[tied]], side="right")
    false = len(everything) - start - true
    above = len(everything) - stop - (true - equal)
    return Ranks(len(anomalous), len(everything) - len(anomalous), equal, true, above, false)


def auroc(ranks: Ranks) -> float:
    """Area under the ROC curve = P(anomalous > normal) + P(tie) / 2, in [0, 1]; exact but for one division."""
    pairs = 2 * ranks.anomalous * ranks.normal
    return (pairs - int(np.sum(ranks.equal * (ranks.above + ranks.false)))) / pairs


def average_precision(ranks: Ranks) -> float:
    """Sum of precision times the step in recall, in [0, 1]; scikit-learn's definition, no interpolation."""
    return float(np.sum(ranks.equal * (ranks.true / (ranks.true + ranks.false)))) / ranks.anomalous


def f1_max(ranks: Ranks) -> float:
    """The best F1 = 2 TP / (2 TP + FP + FN) over all thresholds, in [0, 1]; the best one is an anomalous score."""
    return float(np.max(2 * ranks.true / (ranks.anomalous + ranks.true + ranks.false)))


def real_dtype(arrays: Iterable[Array]) -> np.dtype[Any]:
    """The native dtype that holds the scores of all `arrays` as they are, float16 as float32 and bool as uint8.

    Raises ValueError for anything but real numbers.
    """
    dtype = np.result_type(*{array.dtype for array in arrays})
    if dtype.kind not in "biuf":
        raise ValueError(f"scores of type {dtype}; real numbers are needed")
    return np.dtype({"float16": "float32", "bool": "uint8"}.get(dtype.name, dtype.name))


def undefined(names: Iterable[str], reason: str) -> dict[str, float]:
    """Each name with nan, and a warning at the caller of the public function."""
    names = list(names)
    warnings.warn(f"{', '.join(names)} undefined: {reason}", UndefinedMetricWarning, stacklevel=3)
    return dict.fromkeys(names, float("nan"))
