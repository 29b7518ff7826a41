"""Counting around values against two searches in the sorted scores, wherever values and scores may lie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomaly_bench.metrics.counting import Buckets, Tally, count

EDGES = {
    "float32": [0.0, -0.0, 1.0, np.nextafter(np.float32(1), np.float32(2)), 1e-45, -1e-45, 3.4e38, -3.4e38, 1e6],
    "float64": [0.0, -0.0, 1.0, 1 + 2**-52, 5e-324, -5e-324, 1.7e308, -1.7e308, 1e6],
    "int64": [0, 1, 2**63 - 1, 2**63 - 2, -(2**63), 2**53, 2**53 + 1],
    "uint8": [0, 1, 2, 254, 255],
}


def assert_counted(values, scores, block=2**16):
    """Every score is counted where two searches in the sorted scores find it, as an array and as on a GPU."""
    order, buckets = np.sort(scores), Buckets(values)
    tallies = Tally(buckets, block).add(scores), Tally(buckets).add_tensor(torch.from_numpy(scores))
    for found in map(count, tallies):
        assert found.normal == len(scores)
        np.testing.assert_array_equal(found.below, np.searchsorted(order, values, side="left"))
        np.testing.assert_array_equal(found.reached, np.searchsorted(order, values, side="right"))


@pytest.mark.parametrize("dtype", EDGES)
@given(data=st.data(), block=st.integers(1, 30))
def test_at_the_ends_of_a_type(dtype, data, block):
    numbers = arrays(dtype, st.integers(1, 12), elements=st.sampled_from(EDGES[dtype]), fill=st.nothing())
    assert_counted(np.unique(data.draw(numbers)), data.draw(numbers), block)


def normal(rng, n):
    return rng.normal(size=n)


def outliers(rng, n):
    return np.append(rng.normal(size=n - 2), [1e6, -1e9])


def heavy_tail(rng, n):
    return np.exp(8 * rng.normal(size=n))


def two_places(rng, n):
    return rng.random(n) * 1e-3 + rng.integers(0, 2, n) * 1e3


def ties(rng, n):
    return rng.normal(size=n).round(2)


def constant(rng, n):
    return np.ones(n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("draw", [normal, outliers, heavy_tail, two_places, ties, constant])
@pytest.mark.parametrize("number", [1, 2, 65, 3000])
def test_of_any_distribution(draw, dtype, number):
    rng = np.random.default_rng(number)
    values, scores = np.unique(draw(rng, number + 2).astype(dtype)), draw(rng, 100_000).astype(dtype)
    assert_counted(values, np.concatenate([scores, values, values]))


def test_neighbours_in_float64():
    rng = np.random.default_rng(0)
    values, scores = (1 + rng.integers(0, n, n) * 2.0**-52 for n in (5000, 20_000))
    assert_counted(np.unique(values), scores)


def test_most_scores_are_not_sorted(monkeypatch):
    """A few outliers leave the buckets as narrow as they were; only the scores beside the outliers are sorted."""
    rng = np.random.default_rng(0)
    values, scores = np.unique(outliers(rng, 20_000)), rng.normal(size=100_000)
    sizes, sort = [], np.sort
    monkeypatch.setattr(np, "sort", lambda array: sizes.append(len(array)) or sort(array))
    Tally(Buckets(values)).add(scores)
    assert sum(sizes) < len(scores) / 50


def test_no_score():
    assert count(Tally(Buckets(np.array([1.0, 2.0]))).add(np.empty(0))).normal == 0
