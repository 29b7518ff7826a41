from __future__ import annotations

import os
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binomtest, kstest
from small_training import fit
from torch.utils.data import DataLoader

from anomaly_bench.datasets.mtd import MTD
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.metrics.calibration import (
    benjamini_hochberg,
    calibrate,
    clopper_pearson,
    normals_needed,
    p_values,
    promised_rate,
    rank_for,
)
from anomaly_bench.metrics.drift import score_change
from anomaly_bench.records import Record
from tests.methods.small_rd import method
from tests.references import calibration as slow

SIZES = (20, 59, 93, 200, 1000)
RATES = (0.01, 0.05, 0.1)
CALIBRATIONS = 10_000
LAWS = {  # how scores are drawn, and the share of the law above a score
    "normal": (lambda draw, shape: draw.standard_normal(shape), lambda t: ndtr(-t)),
    "lognormal": (lambda draw, shape: np.exp(draw.standard_normal(shape)), lambda t: ndtr(-np.log(t))),
    "Cauchy": (lambda draw, shape: draw.standard_cauchy(shape), lambda t: np.arctan2(1, t) / np.pi),
    "uniform": (lambda draw, shape: draw.random(shape), lambda t: 1 - t),
}
TIED = {
    "normal, rounded down to quarters": (
        lambda draw, shape: np.floor(4 * draw.standard_normal(shape)) / 4,
        lambda t: ndtr(-(t + 0.25)),
    ),
    "0 or 1": (lambda draw, shape: (draw.random(shape) < 0.03).astype(float), lambda t: np.where(t < 1, 0.03, 0.0)),
}
REAL_WEIGHTS = Path(os.environ.get("ANOMALY_BENCH_WEIGHTS", "")) / "resnet18.layer1-3.safetensors"
REAL_IMAGES = Path(os.environ.get("ANOMALY_BENCH_DATA", "")) / "mtd" / "MT_Free"
SPLITS = 4000
lots = st.lists(st.integers(0, 20), min_size=1, max_size=12)  # many ties


# The threshold


def test_known_numbers() -> None:
    assert [normals_needed(rate, 0.95) for rate in (0.1, 0.05, 0.02, 0.01, 0.001)] == [29, 59, 149, 299, 2995]
    assert round(promised_rate(59, 0, 0.95), 4) == 0.0495
    assert round(promised_rate(58, 0, 0.95), 4) == 0.0503
    assert round(promised_rate(32, 0, 0.95), 3) == 0.089


@pytest.mark.parametrize("n", [1, 2, 32, 59, 93, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_promise_against_sums_of_binomial_chances(n: int, confidence: float) -> None:
    for r in {0, 1, n // 20, n // 2, n - 1} & set(range(n)):
        assert promised_rate(n, r, confidence) == pytest.approx(slow.promised_rate(n, r, confidence), rel=1e-8)


@pytest.mark.parametrize("rate", ["0.01", "0.05", "0.1", "0.37"])
@pytest.mark.parametrize("confidence", ["0.9", "0.95"])
def test_rank_and_number_of_images_against_exact_chances(rate: str, confidence: str) -> None:
    exact = Fraction(rate), Fraction(confidence)
    ranks = {n: slow.rank(n, *exact) for n in (1, 2, 5, 6, 7, 28, 29, 58, 59, 92, 93, 124, 230)}
    assert {n: rank_for(n, float(rate), float(confidence)) for n in ranks} == {n: r or 0 for n, r in ranks.items()}
    needed = normals_needed(float(rate), float(confidence))
    assert (1 - exact[0]) ** needed <= 1 - exact[1] < (1 - exact[0]) ** (needed - 1)


@given(st.integers(1, 2000), st.floats(0.0005, 0.9), st.floats(0.5, 0.999))
def test_promise_is_kept_from_the_needed_number_on(n: int, rate: float, confidence: float) -> None:
    found = calibrate(np.arange(n, dtype=float), rate, confidence)
    assert (found.promised <= rate) == (n >= normals_needed(rate, confidence))
    assert found.threshold == n - 1 - found.r
    assert found.promised == promised_rate(n, found.r, confidence)
    if found.promised <= rate and found.r < n - 1:
        assert promised_rate(n, found.r + 1, confidence) > rate  # r is the largest


def test_threshold_does_not_depend_on_the_order_and_may_be_written_as_json() -> None:
    scores = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    found = calibrate(scores, 0.05, 0.95)
    assert found == calibrate(scores[::-1], 0.05, 0.95)
    assert (scores > found.threshold).sum() == found.r == 4
    assert found._asdict() == {
        "threshold": float(np.sort(scores)[-5]), "n": 200, "r": 4, "rate": 0.05, "confidence": 0.95,
        "promised": found.promised,
    }  # fmt: skip
    assert all(type(value) in (int, float) for value in found._asdict().values())


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_threshold_needs_finite_scores(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        calibrate(np.array(scores), 0.05, 0.95)


# The promise


def broken(law: str, n: int) -> dict[float, float]:
    """How often the true rate is above what is promised, for each requested rate."""
    draw, share_above = (LAWS | TIED)[law]
    scores = draw(np.random.default_rng([0, n, [*LAWS, *TIED].index(law)]), (CALIBRATIONS, n))
    ranks = {rate: rank_for(n, rate, 0.95) for rate in RATES}
    scores.partition([n - 1 - r for r in {*ranks.values()}], axis=1)
    for rate, r in ranks.items():
        assert calibrate(scores[0], rate, 0.95).threshold == scores[0, n - 1 - r]
    promised = {rate: promised_rate(n, r, 0.95) for rate, r in ranks.items()}
    return {rate: np.mean(share_above(scores[:, n - 1 - r]) > promised[rate]) for rate, r in ranks.items()}


@pytest.mark.parametrize("law", LAWS)
def test_promise_holds_for_any_law(law: str) -> None:
    """The true rate is that of the law.  1 - 0.95 is exact, so that the promise is no larger than it has to be."""
    found = np.array([list(broken(law, n).values()) for n in SIZES])
    assert found.max() <= 0.057  # 3.2 standard errors of 10,000 calibrations
    assert found.min() >= 0.043
    assert found.mean() == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize("law", TIED)
def test_promise_holds_with_ties(law: str) -> None:
    assert max(max(broken(law, n).values()) for n in SIZES) <= 0.057


def test_chances_of_a_random_split_by_counting_all_splits() -> None:
    n, rest, r = 5, 4, 1
    counts = [0] * (rest + 1)
    for calibration in combinations(range(n + rest), n):
        threshold = sorted(calibration)[n - 1 - r]
        counts[sum(s > threshold for s in range(n + rest) if s not in calibration)] += 1
    assert [Fraction(c, sum(counts)) for c in counts] == [slow.chance_above(k, n, r, rest) for k in range(rest + 1)]


# p-values, intervals, lots


@given(lots, lots)
def test_p_values_are_shares_of_all_scores(calibration: list[int], scores: list[int]) -> None:
    expected = [float(slow.p_value(calibration, s)) for s in scores]
    assert p_values(np.array(calibration), np.array(scores)).tolist() == expected


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=12))
def test_p_values_of_each_score_among_the_others(scores: list[int]) -> None:
    """Any of n + 1 exchangeable scores can be the new one: a share of at most a of them has p <= a; with ties less."""
    found = np.array([p_values(np.array(scores[:i] + scores[i + 1 :]), np.array([s]))[0] for i, s in enumerate(scores)])
    assert all((found <= a).mean() <= a for a in np.arange(1, len(scores) + 1) / len(scores))
    if len(set(scores)) == len(scores):
        assert sorted(found) == pytest.approx(np.arange(1, len(scores) + 1) / len(scores))


def test_p_values_of_held_out_normals_are_uniform() -> None:
    """One held-out image of each split: several would share their calibration scores."""
    draw = np.random.default_rng(0)
    scores = draw.lognormal(size=(500, 200))
    p = [p_values(row[1:], row[:1])[0] for row in scores]
    assert kstest(p, "uniform").pvalue > 0.05
    assert kstest([p_values(row[1:], row[:1] * 1.3)[0] for row in scores], "uniform").pvalue < 0.001


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n", [1, 10, 41])
def test_interval_of_a_share(n: int, confidence: float) -> None:
    for count in range(n + 1):
        found = clopper_pearson(count, n, confidence)
        assert found == pytest.approx(slow.interval(count, n, confidence), abs=1e-9)
        reference = binomtest(count, n).proportion_ci(confidence, "exact")
        assert found == pytest.approx((reference.low, reference.high), abs=1e-9)


@given(st.lists(st.integers(1, 100), max_size=12), st.sampled_from([0.05, 0.1, 0.5]))
def test_lots_by_definition(hundredths: list[int], rate: float) -> None:
    p = np.array(hundredths) / 100
    assert benjamini_hochberg(p, rate).tolist() == slow.rejected(p.tolist(), rate)


def test_lots_reject_few_normal_images() -> None:
    """Lots of 30 normal images and 10 defects: 10 % * 30 / 40 of what is rejected is normal, on average over lots."""
    draw, shares, found = np.random.default_rng(0), [], []
    for _ in range(2000):
        calibration, lot = draw.standard_normal(200), draw.standard_normal(40) + np.repeat([3, 0], [10, 30])
        rejected = benjamini_hochberg(p_values(calibration, lot), 0.1)
        shares.append(rejected[10:].sum() / max(1, rejected.sum()))
        found.append(rejected[:10].mean())
    assert np.mean(shares) == pytest.approx(0.075, abs=4 * np.std(shares) / len(shares) ** 0.5)
    assert np.mean(found) > 0.7


# Real scores


@pytest.fixture(scope="module")
def tile_scores(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """[857] scores of the free tiles of MTD that a small training on the 95 others has not seen."""
    tiles, cache = MTD(root=None, split_file=None, train_share=0.1, split_seed=0), tmp_path_factory.mktemp("tiles")
    held_out: list[Record] = [record for record in tiles.records("test") if not record.label]
    rd = method(weights=str(REAL_WEIGHTS), batch_size=16, epochs=2)
    for stage in rd.stages(NormalLoaders(tiles.records("train"), [], rd.image_size, cache, workers=0, seed=0)):
        fit(stage)
    loader = DataLoader(ImageSet(held_out, rd.image_size, cache), batch_size=64)
    rd.eval()
    with torch.inference_mode():
        return torch.cat([rd.score(batch["image"]).image for batch in loader]).numpy()


needs_tiles = pytest.mark.skipif(
    not REAL_WEIGHTS.is_file() or not REAL_IMAGES.is_dir(),
    reason="needs $ANOMALY_BENCH_WEIGHTS/resnet18.layer1-3.safetensors and $ANOMALY_BENCH_DATA/mtd",
)


@pytest.mark.realdata
@needs_tiles
@pytest.mark.parametrize(
    ("n", "rate"),
    [(400, 0.05), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((100, 0.05), (400, 0.1), (400, 0.01)))],
)
def test_realised_rates_of_other_tiles(tile_scores: np.ndarray, n: int, rate: float) -> None:
    """Over random splits, the number of other tiles above the threshold follows the law that splits have.

    It scatters more than the true rate does: in more than 5 % of the splits the realised rate is above the promise.
    """
    draw = np.random.default_rng(0)
    rest, counts = len(tile_scores) - n, np.zeros(SPLITS, int)
    for i in range(SPLITS):
        shuffled = draw.permutation(tile_scores)
        found = calibrate(shuffled[:n], rate, 0.95)
        counts[i] = (shuffled[n:] > found.threshold).sum()
    chances = np.array([float(slow.chance_above(k, n, found.r, rest)) for k in range(rest + 1)])
    for limit in (rest * found.promised, *np.quantile(counts, [0.1, 0.5, 0.9])):
        expected = chances[np.arange(rest + 1) > limit].sum()
        error = (expected * (1 - expected) / SPLITS) ** 0.5
        assert np.mean(counts > limit) == pytest.approx(expected, abs=4 * error), limit


@pytest.mark.realdata
@needs_tiles
def test_held_out_tiles_have_uniform_p_values_and_have_not_changed(tile_scores: np.ndarray) -> None:
    draw, p, changes = np.random.default_rng(0), [], []
    for _ in range(500):
        shuffled = draw.permutation(tile_scores)
        p.append(p_values(shuffled[1:400], shuffled[:1])[0])
        threshold = calibrate(shuffled[:400], 0.05, 0.95).threshold
        changes.append(score_change(shuffled[:400], shuffled[400:], threshold).p_value)
    assert kstest(p, "uniform").pvalue > 0.05
    assert np.mean(np.array(changes) <= 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 500) ** 0.5
