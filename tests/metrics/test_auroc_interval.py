"""The interval of an AUROC, against its definition and against what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

from anomaly_bench.metrics import measure
from anomaly_bench.metrics.auroc_interval import PRIOR, auroc_interval


def draw(seed: int, m: int, n: int, auroc: float, deviation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores N(0, 1) and anomalous ones N(d, deviation^2) with this true AUROC."""
    rng = np.random.default_rng(seed)
    d = norm.ppf(auroc) * math.hypot(1, deviation)
    return np.concatenate([rng.normal(d, deviation, m), rng.normal(0, 1, n)]), np.arange(m + n) < m


def written_out(scores: np.ndarray, anomalous: np.ndarray, level: float) -> tuple[float, float]:
    """All pairs one by one, and the equation solved by SciPy."""
    x, y = scores[anomalous], scores[~anomalous]
    m, n = len(x), len(y)
    wins = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])

    def hanley_mcneil(t: float) -> float:
        q1, q2 = t / (2 - t), 2 * t * t / (1 + t)  # with (m + n) / 2 - 1 in place of m - 1 and n - 1
        return (t * (1 - t) + ((m + n) / 2 - 1) * (q1 + q2 - 2 * t * t)) / (m * n)

    value = wins.mean()
    rows, columns = wins.mean(1), wins.mean(0)
    k = math.sqrt(sum(0 < r < 1 for r in rows) * sum(0 < c < 1 for c in columns))
    factor, freedom = 1.0, math.inf
    if k:
        a, b = np.var(rows, ddof=1) / m, np.var(columns, ddof=1) / n
        estimated, known = k * (a + b), PRIOR * hanley_mcneil(value)  # two variances, of which the mean is taken
        factor = (estimated + known) / (k + PRIOR) / hanley_mcneil(value)
        welch = (a + b) ** 2 / (a * a / (m - 1) + b * b / (n - 1))
        freedom = (estimated + known) ** 2 / (estimated**2 / welch)

    def excess(t: float) -> float:
        deviation = math.sqrt(hanley_mcneil(t))
        toward_half = (t < value) == (value > 0.5) or value == 0.5
        f = max(factor, abs(2 * value - 1)) if toward_half else factor
        if t > value:
            alone = t + norm.ppf((1 + level) / 2) * deviation > 1
        else:
            alone = t - norm.ppf((1 + level) / 2) * deviation < 0
        z = student.ppf(level if alone else (1 + level) / 2, freedom)
        return abs(value - t) - z * math.sqrt(f) * deviation

    low = 0.0 if value == 0 else brentq(excess, 1e-12, value - 1e-9, xtol=1e-13)
    high = 1.0 if value == 1 else brentq(excess, value + 1e-9, 1 - 1e-12, xtol=1e-13)
    return low, high


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("auroc", [0.5, 0.8, 0.95, 0.999])
def test_it_solves_its_equation(auroc: float, level: float) -> None:
    for seed in range(5):
        scores, anomalous = draw(seed, 12, 17, auroc, 1.5)
        for each in (scores, scores.round(0)):  # ties too
            expected = written_out(each, anomalous, level)
            assert auroc_interval(each, anomalous, level) == pytest.approx(expected, abs=1e-9)


def test_an_auroc_of_1_is_no_certainty() -> None:
    scores = np.arange(60.0)
    low, high = auroc_interval(scores, scores >= 30)
    assert high == 1
    assert 0.9 < low < 0.99
    few = auroc_interval(scores[24:36], scores[24:36] >= 30)
    assert few[0] < low  # with fewer images less is known
    assert auroc_interval(-scores, scores >= 30) == pytest.approx((0.0, 1 - low))
    assert measure(scores, scores >= 30, memory_mb=0).intervals["image_auroc"] == (low, high)


def test_scores_that_are_all_equal() -> None:
    low, high = auroc_interval(np.ones(12), np.arange(12) < 6)
    assert 0 < low < 0.5
    assert high == pytest.approx(1 - low)


def test_one_class_alone_has_none_and_a_level_is_a_share() -> None:
    assert np.isnan(auroc_interval(np.arange(4.0), np.zeros(4, bool))).all()
    with pytest.raises(ValueError, match=r"level: 1 is outside \(0, 1\)"):
        auroc_interval(np.arange(4.0), np.arange(4) > 1, 1)


@pytest.mark.parametrize(("m", "n"), [(6, 6), (20, 20), (60, 20), (20, 60)])
@pytest.mark.parametrize("auroc", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("deviation", [0.5, 1, 2])
def test_it_covers_the_true_value(m: int, n: int, auroc: float, deviation: float) -> None:
    found = [auroc_interval(*draw(seed, m, n, auroc, deviation)) for seed in range(600)]
    covered = np.mean([low <= auroc <= high for low, high in found])
    assert 0.91 <= covered <= 0.975  # three standard errors of 93 %; two of 97 %
