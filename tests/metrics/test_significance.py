from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from anomaly_bench.metrics.bootstrap import image_replicates
from anomaly_bench.metrics.significance import (
    ALPHA,
    Compared,
    compare,
    effect_told_apart,
    holm,
    image_interval,
    wilcoxon,
    within,
)
from tests.references.compare import holm_rejects, paired_image_interval, signed_rank_p

DARWIN = [
    49,
    -67,
    8,
    16,
    6,
    23,
    28,
    41,
    14,
    29,
    56,
    24,
    75,
    60,
    -48,
]  # Fisher 1935: crossed minus self-fertilised maize
# AUC of C4.5 with and without m chosen by cross-validation on 14 data sets (Demšar, JMLR 2006, table 2)
DEMSAR = [
    [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
    [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
]
CATEGORIES = [f"c{i:02}" for i in range(15)]


def table(values: np.ndarray) -> dict[tuple[str, int], float]:
    """[C, S] -> by category and seed."""
    return {(CATEGORIES[c], s): float(value) for (c, s), value in np.ndenumerate(values)}


def distinguishable(found: Compared, beyond: bool = False) -> bool:
    """On these categories; beyond: also on categories like these."""
    asked = [found.here, *([found.beyond] if beyond else [])]
    return all(answer and answer.p < ALPHA and not answer.low <= 0 <= answer.high for answer in asked)


@given(st.lists(st.integers(-4, 4), max_size=11))  # many ties, some zeros
def test_wilcoxon_is_the_share_of_all_signs(differences: list[int]) -> None:
    assert wilcoxon(np.array(differences, float)) == pytest.approx(float(signed_rank_p(differences)), abs=1e-12)


def test_wilcoxon_without_ties_is_scipys() -> None:
    from scipy.stats import wilcoxon as scipys

    for n in (3, 6, 15, 50):
        differences = np.random.default_rng(n).normal(0.2, 1, n)
        assert wilcoxon(differences) == pytest.approx(scipys(differences, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "sum_of_ranks", "p"), [(6, 0, 1 / 32), (8, 3, 10 / 256), (10, 8, 50 / 1024)])
def test_wilcoxon_meets_the_table_of_critical_values(n: int, sum_of_ranks: int, p: float) -> None:
    signs = np.ones(n)
    left = sum_of_ranks
    for rank in range(n, 0, -1):  # the negative ranks: the largest that still fit
        if rank <= left:
            signs[rank - 1], left = -1, left - rank
    assert wilcoxon(signs * np.arange(1, n + 1)) == pytest.approx(p)
    assert p < ALPHA


def test_published_examples() -> None:
    assert wilcoxon(np.array(DARWIN, float)) == pytest.approx(0.041259765625)
    first, second = ({(str(i), 0): v for i, v in enumerate(values)} for values in DEMSAR)
    found = compare(first, second)
    assert found.beyond
    assert (found.pairs, found.categories, found.beyond.least) == (14, 14, 2**-11)  # two data sets do not differ
    assert found.here.p == found.beyond.p < ALPHA
    assert distinguishable(found, beyond=True)
    exact = [round(1000 * (a - b)) for a, b in zip(*DEMSAR, strict=True)]
    assert found.here.p == pytest.approx(
        float(signed_rank_p(exact))
    )  # ties are ties, whatever binary fractions make of them


def test_rounding_makes_no_ranks() -> None:
    halves = [(0.9, 0.8), (0.3, 0.2), (0.7, 0.6), (0.5, 0.4), (0.2, 0.1), (0.8, 0.7), (0.1, 0.2)]  # all differ by 0.1
    first, second = ({("a", i): pair[side] for i, pair in enumerate(halves)} for side in (0, 1))
    assert compare(first, second).here.p == pytest.approx(float(signed_rank_p([1, 1, 1, 1, 1, 1, -1])))


def test_no_difference_is_no_evidence() -> None:
    assert wilcoxon(np.array([])) == wilcoxon(np.zeros(9)) == 1
    found = compare(table(np.ones((15, 2))), table(np.ones((15, 2))))
    assert (found.difference, found.ahead) == (0, 0.5)
    assert found.here[:4] == (0, 0, 1, 1)
    assert found.beyond
    assert found.beyond[:4] == (0, 0, 1, 1)
    assert signed_rank_p([]) == Fraction(1)


def test_only_the_same_category_and_seed_is_a_pair() -> None:
    first = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.7, ("c", 0): math.nan, ("d", 5): 0.1}
    second = {("a", 0): 0.6, ("a", 1): 0.7, ("b", 1): 0.2, ("c", 0): 0.5, ("d", 4): 0.1}
    found = compare(first, second)
    assert (found.pairs, found.categories) == (2, 1)
    assert found.difference == pytest.approx(0.2)
    assert found.ahead == 1
    assert math.isnan(found.here.low)
    assert found.beyond is None
    with pytest.raises(ValueError, match="no category and seed"):
        compare({("a", 0): 1.0}, {("a", 1): 1.0})


def test_each_category_counts_once() -> None:
    found = compare(
        {("a", s): 0.5 for s in range(9)} | {("b", 0): 0.9},
        dict.fromkeys([("a", s) for s in range(9)], 0.4) | {("b", 0): 0.4},
    )
    assert found.difference == pytest.approx((0.1 + 0.5) / 2)


def test_seeds_are_no_further_categories() -> None:
    values = np.linspace(0.5, 0.9, 6)[:, None] + np.zeros((6, 9))
    six, five = (compare(table(values[:n] + 0.01 * np.arange(1, 10)), table(values[:n])) for n in (6, 5))
    assert six.beyond
    assert six.beyond.p == six.beyond.least == 2 / 2**6  # six observations, not 54
    assert five.beyond is None
    assert five.here.least == 2.0**-44  # of these five categories only: each run counts
    assert six.here.least == 2.0**-53  # of these six, too: one more category takes nothing away


def test_few_runs_can_never_tell() -> None:
    for categories, seeds in ((1, 3), (2, 2), (5, 1), (1, 5)):
        found = compare(table(np.ones((categories, seeds))), table(np.zeros((categories, seeds)))).here
        assert found.p == found.least == 2.0 ** (1 - categories * seeds) > ALPHA
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_intervals_are_students() -> None:
    """Over categories that of SciPy for one sample; on one category too, of its seeds."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.01, 0.02, (8, 3))
    found = compare(table(values), table(np.zeros((8, 3))))
    assert found.beyond
    expected = ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert found.beyond[:2] == pytest.approx((expected.low, expected.high))
    one = compare(table(values.reshape(1, -1)), table(np.zeros((1, 24)))).here
    expected = ttest_1samp(values.ravel(), 0).confidence_interval(0.95)
    assert one[:2] == pytest.approx((expected.low, expected.high))


def test_the_scatter_inside_categories_by_hand() -> None:
    error, freedom = within({"a": np.array([1.0, 3.0, 5.0]), "b": np.array([10.0, 11.0, 12.0, 13.0])})
    assert freedom == 5
    variance = (4 + 0 + 4 + 2.25 + 0.25 + 0.25 + 2.25) / 5
    assert error == pytest.approx(math.sqrt(variance * (1 / 3 + 1 / 4) / 4))  # the mean of two means
    error, freedom = within({"a": np.array([1.0, 3.0]), "b": np.array([2.0])})  # too little inside: all pairs
    assert freedom == 2
    assert error == pytest.approx(math.sqrt(1 * (1 / 2 + 1) / 4))


@pytest.mark.parametrize(
    ("shape", "interaction"),
    [
        *(((6, 1), 0.05), ((2, 3), 0), ((1, 8), 0)),
        *(pytest.param(shape, 0.05, marks=pytest.mark.slow) for shape in ((6, 3), (15, 3))),
    ],
)
def test_intervals_cover_the_true_difference(shape: tuple[int, int], interaction: float) -> None:
    """On categories like these where there are six or more, else on these."""
    rng, covered, repetitions = np.random.default_rng(0), 0, 1500
    for _ in range(repetitions):
        first = 0.01 + rng.normal(0, interaction, (shape[0], 1)) + rng.normal(0, 0.02, shape)
        found = compare(table(first), table(np.zeros(shape)))
        low, high = (found.beyond or found.here)[:2]
        covered += low <= 0.01 <= high
    assert 0.93 <= covered / repetitions <= 0.97


@pytest.mark.parametrize(("shape", "alpha"), [((1, 6), ALPHA), ((1, 8), ALPHA), ((2, 6), 0.01), ((15, 3), ALPHA)])
def test_what_could_have_been_told_apart_is_told_apart_in_4_of_5_cases(shape: tuple[int, int], alpha: float) -> None:
    rng, told, repetitions, pairs = np.random.default_rng(1), 0, 500, math.prod(shape)
    effect = effect_told_apart(pairs, alpha) * 0.02
    for _ in range(repetitions):
        found = compare(table(rng.normal(effect, 0.02, shape)), table(np.zeros(shape))).here
        told += found.p < alpha and found.low > 0
    assert 0.74 <= told / repetitions <= 0.86  # three standard errors
    known = compare(table(0.01 + 0.02 * np.array([[-1, 1] * 3])), table(np.zeros((1, 6)))).here
    assert known.detectable() == pytest.approx(effect_told_apart(6, ALPHA) * 0.02 * math.sqrt(6 / 5))


def test_what_no_number_of_runs_like_these_could_tell() -> None:
    assert math.isnan(effect_told_apart(6, ALPHA / 3))  # the smallest p of six is 0.031
    assert effect_told_apart(6, ALPHA) == pytest.approx(1.79, abs=0.05)  # all six must be above 0: Phi(1.79)^6 = 0.8
    assert effect_told_apart(240, ALPHA) == pytest.approx(effect_told_apart(60, ALPHA) / 2)
    assert effect_told_apart(60, ALPHA) == pytest.approx((1.96 + 0.84) * math.sqrt(math.pi / 3 / 60), rel=0.05)


def test_image_intervals_are_those_of_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 12 + [1] * 14)
    truth = labels + rng.normal(0, 0.8, 26)
    first, second = (truth + noise * rng.normal(0, 1, (3, 26)) for noise in (0.3, 1.5))
    replicates = [
        np.array([image_replicates(s, labels, resamples=4000, seed=0)["image_auroc"] for s in scores])
        for scores in (first, second)
    ]
    found = image_interval(replicates[0], replicates[1])
    naive = paired_image_interval(first.tolist(), second.tolist(), labels.tolist(), 4000, 1)
    assert found == pytest.approx(naive, abs=0.02)
    assert found[1] - found[0] > 0.1
    assert image_interval(replicates[0], replicates[0]) == (0, 0)  # the same images for both


@given(st.lists(st.sampled_from([0.001, 0.004, 0.009, 0.0126, 0.02, 0.049, 0.2, 0.9]), max_size=7))
def test_holm_rejects_what_his_procedure_rejects(p: list[float]) -> None:
    assert [value <= ALPHA for value in holm(p)] == holm_rejects(p, ALPHA)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def share(shape: tuple[int, int], effect: float, interaction: float, repetitions: int, beyond: bool = False) -> float:
    """How often two methods are told apart whose values scatter by 0.02 over seeds.

    effect: of the first over categories like these.  interaction: how far it differs between categories.  beyond: told
    apart on categories like these.
    """
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(repetitions):
        base = 0.8 + rng.normal(0, 0.1, (shape[0], 1))  # some categories are hard for both
        own = effect + rng.normal(0, interaction, (shape[0], 1))
        first, second = (base + shift + rng.normal(0, 0.02, shape) for shift in (own, 0))
        told += distinguishable(compare(table(first), table(second)), beyond)
    return told / repetitions


@pytest.mark.parametrize(
    ("shape", "interaction"),
    [
        *(((15, 1), 0.05), ((2, 3), 0), ((1, 8), 0)),
        *(pytest.param((15, 3), interaction, marks=pytest.mark.slow) for interaction in (0, 0.05)),
    ],
)
def test_equal_methods_are_rarely_told_apart(shape: tuple[int, int], interaction: float) -> None:
    repetitions = 1000
    assert share(shape, 0, interaction, repetitions, interaction > 0) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_true_effect_is_found() -> None:
    assert share((15, 3), 0.02, 0, 200) >= 0.95
    assert share((15, 3), 0.04, 0.03, 200) >= 0.9
    assert share((2, 4), 0.1, 0, 200) >= 0.95
    assert share((1, 5), 0.5, 0, 20) == 0  # too few to tell, however far apart
