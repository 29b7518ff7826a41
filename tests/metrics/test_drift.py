from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from anomaly_bench.metrics.calibration import calibrate, p_values
from anomaly_bench.metrics.drift import JUMP_RATE, DriftMartingale, score_change
from tests.references import calibration as slow

STREAMS = 1000
tied = st.lists(st.integers(0, 12), max_size=30)


def watch(calibration: np.ndarray, alpha: float = 0.01) -> DriftMartingale:
    return DriftMartingale(calibration.tolist(), calibrate(calibration, 0.05, 0.95).threshold, alpha)


def feed(martingale: DriftMartingale, scores: np.ndarray) -> DriftMartingale:
    for score in scores.tolist():
        martingale.update(score)
    return martingale


# A folder


def shares_of_small_p(new: int, shift: float, repeats: int = 300) -> tuple[float, float]:
    """How often the change of scores, and p-values against the uniform law, come out at 5 %."""
    draw, found = np.random.default_rng(0), []
    for _ in range(repeats):
        calibration, scores = draw.standard_normal(100), draw.standard_normal(new) + shift
        change = score_change(calibration, scores, calibrate(calibration, 0.05, 0.95).threshold)
        found.append((change.p_value, kstest(p_values(calibration, scores), "uniform").pvalue))
    small, wrong = (np.array(found) <= 0.05).mean(axis=0)
    return float(small), float(wrong)


@pytest.mark.parametrize("new", [30, 1000])
def test_no_change_is_found_where_there_is_none(new: int) -> None:
    """The calibration scores have scatter of their own, which the uniform law does not know of."""
    small, wrong = shares_of_small_p(new, shift=0)
    assert small <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    if new == 1000:
        assert wrong > 0.9


def test_a_change_is_found() -> None:
    assert shares_of_small_p(new=100, shift=1)[0] > 0.95


def test_scores_from_the_threshold_on_are_left_out() -> None:
    calibration, new = np.arange(100.0), np.arange(50.0) * 2 + 0.5
    found = score_change(calibration, new, 90.0)
    assert (found.calibration, found.new) == (90, 45)
    assert found == score_change(calibration[:90], new[:45], np.inf)
    assert found.p_value > 0.99
    with_defects = score_change(calibration, np.concatenate([new, np.full(1000, 99.0)]), 90.0)
    assert with_defects == found


@pytest.mark.parametrize("threshold", [0.0, 10.0])
def test_nothing_to_compare(threshold: float) -> None:
    assert score_change(np.arange(5.0), np.arange(5.0) + 10, threshold).p_value == 1


def test_distance_of_two_distribution_functions() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 20, 40).astype(float), draw.integers(3, 20, 25).astype(float)
    expected = max(abs((a <= t).mean() - (b <= t).mean()) for t in range(20))
    assert score_change(a, b, np.inf).distance == pytest.approx(expected)


# A line


@given(tied, tied)
def test_capital_against_its_definition(calibration: list[int], new: list[int]) -> None:
    martingale = feed(DriftMartingale(calibration, threshold=11, seed=3), np.array(new))
    below = [score for score in new if score < 11]
    uniforms = Random(3)
    p = slow.smoothed_p_values([s for s in calibration if s < 11], below, [uniforms.random() for _ in below])
    values = [slow.martingale(p[:k], JUMP_RATE) for k in range(len(p) + 1)]
    assert martingale.value == pytest.approx(values[-1], rel=1e-9)
    assert martingale.highest_log_value == pytest.approx(math.log(max(values)), abs=1e-9)


def test_false_alarms_of_exchangeable_scores() -> None:
    """A fair game: the capital is 1 on average, and reaches 1 / alpha in at most the share alpha of the streams."""
    draw, values, highest = np.random.default_rng(0), [], []
    for _ in range(STREAMS):
        martingale = feed(watch(draw.lognormal(size=60)), draw.lognormal(size=50))
        values.append(martingale.value)
        highest.append(feed(martingale, draw.lognormal(size=250)).highest_log_value)
    assert np.mean(values) == pytest.approx(1, abs=4 * np.std(values) / STREAMS**0.5)
    for alpha in (0.01, 0.05, 0.2):
        share = np.mean(np.array(highest) >= -math.log(alpha))
        assert share <= alpha + 3 * (alpha * (1 - alpha) / STREAMS) ** 0.5


def test_false_alarms_with_many_equal_scores() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.poisson(4, 60), draw.poisson(4, 100)) for _ in range(STREAMS)]
    alarms = [feed(watch(calibration, alpha=0.05), stream).alarmed for calibration, stream in pairs]
    assert np.mean(alarms) <= 0.05 + 3 * (0.05 * 0.95 / STREAMS) ** 0.5


def images_until_alarm(martingale: DriftMartingale, scores: np.ndarray) -> int:
    for count, score in enumerate(scores.tolist(), 1):
        martingale.update(score)
        if martingale.alarmed:
            return count
    return len(scores) + 1


@pytest.mark.parametrize("shift", [1, -1])
def test_a_shift_of_one_deviation_is_found_soon(shift: int) -> None:
    draw = np.random.default_rng(0)
    delays = [images_until_alarm(watch(draw.normal(size=100)), draw.normal(shift, size=300)) for _ in range(100)]
    assert np.median(delays) < 60
    assert np.quantile(delays, 0.9) < 120


def test_a_late_shift_is_found_as_well() -> None:
    """A single Simple Jumper has lost so much by then that it would take thousands of images."""
    draw = np.random.default_rng(0)
    quiet, shifted = draw.normal(size=20_000), draw.normal(1, size=400)
    martingale = feed(watch(draw.normal(size=100)), quiet)
    assert not martingale.alarmed
    assert images_until_alarm(martingale, shifted) < 250
    assert slow.jumper([*draw.random(20_000), *np.full(200, 0.9)], JUMP_RATE) < 1e-6


def test_an_alarm_stays() -> None:
    draw = np.random.default_rng(0)
    martingale = feed(watch(draw.normal(size=100)), draw.normal(2, size=200))
    assert martingale.alarmed
    feed(martingale, draw.normal(-2, size=300))
    assert martingale.alarmed


def test_long_runs_of_extreme_scores_do_not_overflow() -> None:
    martingale = feed(DriftMartingale(np.zeros(100), 1e9), np.arange(1.0, 6001.0))  # each higher than all before
    assert martingale.log_value > 2000
    assert math.isfinite(martingale.value)


def test_a_watch_goes_on_where_it_stopped() -> None:
    draw = np.random.default_rng(0)
    calibration, stream = draw.poisson(5, 80).astype(float), draw.poisson(6, 200).astype(float)
    whole, restored = feed(watch(calibration), stream), feed(watch(calibration), stream[:120])
    assert restored.log_value != whole.log_value
    assert feed(restored, stream[120:]).log_value == whole.log_value
    replayed = feed(DriftMartingale(calibration[::-1], whole.threshold), stream)  # in any order
    assert (replayed.log_value, replayed.alarmed) == (whole.log_value, whole.alarmed)
    other = feed(DriftMartingale(calibration, whole.threshold, seed=1), stream)
    assert other.log_value != whole.log_value


@pytest.mark.slow
def test_many_images() -> None:
    draw = np.random.default_rng(0)
    martingale = feed(watch(draw.normal(size=100)), draw.normal(size=200_000))
    assert not martingale.alarmed
    assert images_until_alarm(martingale, draw.normal(1, size=1000)) < 400
