"""How many scores reach each anomalous score: the counts that AUROC, AP, F1-max and AUPRO are all made of.

A curve has one point for each distinct score, and tied scores enter together.  Between two neighbouring anomalous
scores only normal ones enter, so every area is a sum over the anomalous scores, and the normal ones are only counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class UndefinedMetricWarning(UserWarning):
    """A metric has no value on this input and is nan; the message says why."""


class Counts(NamedTuple):
    """Integer counts of normal scores around D values.  They add up, so that no order and no chunk changes a bit."""

    normal: int  # scores in all
    below: Array  # [D] normal scores < the value
    reached: Array  # [D] normal scores <= the value

    @classmethod
    def zero(cls, values: Array) -> Counts:
        return cls(0, np.zeros(len(values), np.int64), np.zeros(len(values), np.int64))

    def plus(self, other: Counts) -> Counts:
        return Counts(self.normal + other.normal, self.below + other.below, self.reached + other.reached)


class Ranks(NamedTuple):
    """Integer counts at each distinct anomalous score, the highest score first."""

    anomalous: int  # scores in all
    normal: int
    equal: Array  # [D] anomalous scores of exactly this value
    true: Array  # [D] anomalous scores >= this one
    above: Array  # [D] normal scores > this one
    false: Array  # [D] normal scores >= this one


def distinct(scores: Array) -> tuple[Array, Array]:
    """[A] scores in ascending order -> [D] the distinct ones, and how many there are of each."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])  # the end of each run of ties
    return scores[last], np.diff(last, prepend=-1)


def rank(equal: Array, counts: Counts) -> Ranks:
    """Bring together how many anomalous scores there are of each value [D], and the normal ones around these values."""
    equal, normal = equal[::-1], counts.normal
    true = np.cumsum(equal)
    return Ranks(int(true[-1]), normal, equal, true, normal - counts.reached[::-1], normal - counts.below[::-1])


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


def undefined(names: Iterable[str], reason: str, depth: int = 1) -> dict[str, float]:
    """Each name with nan, and a warning at the caller of the public function, `depth` calls above this one."""
    names = list(names)
    warnings.warn(f"{', '.join(names)} undefined: {reason}", UndefinedMetricWarning, stacklevel=depth + 2)
    return dict.fromkeys(names, float("nan"))
