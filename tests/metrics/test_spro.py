"""sPRO and SegF1 against a restatement in rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from anomaly_bench.metrics import UndefinedMetricWarning, pixel_metrics, seg_f1, spro_metrics
from anomaly_bench.metrics.spro import LIMITS, Region, saturation
from tests.references import metrics as slow

EXACT = {0.01: Fraction(1, 100), 0.05: Fraction(1, 20), 0.1: Fraction(1, 10), 0.3: Fraction(3, 10), 1.0: Fraction(1)}


def random_case(seed):
    """Up to 5 images of different sizes, each with up to 4 channels that overlap; ties in every other case."""
    rng = np.random.default_rng(seed)
    maps, regions, kinds = [], [], []
    for i in range(rng.integers(2, 6)):
        shape = rng.integers(2, 8, 2)
        scores = rng.normal(size=shape)
        maps.append(scores.round(0) if seed % 2 else scores)
        kinds.append("good" if i == 0 else rng.choice(["good", "logical", "structural"]) if i > 1 else "logical")
        regions.append([])
        for _ in range(0 if kinds[-1] == "good" else rng.integers(1, 5)):
            mask = rng.random(shape) < rng.choice([0.1, 0.5, 0.9])
            mask[tuple(rng.integers(0, shape))] = True
            area = np.count_nonzero(mask)
            relative = bool(rng.integers(2))
            share = max(float(rng.random()), 1.5 / area if area > 1 else 1.0)
            pixels = int(rng.choice([1, max(1, area // 2), area, area + 7]))
            regions[-1].append(Region(mask, min(share, 1.0) if relative else pixels, relative))
    return maps, regions, kinds


def expected_values(maps, regions, kinds):
    """{"spro_0.05": ..., "spro_0.05_logical": ...}: a kind with the good images, then the mean of the kinds."""
    groups = sorted({*kinds} - {"good"})
    curves = {}
    for kind in groups:
        chosen = [i for i, each in enumerate(kinds) if each in ("good", kind)]
        channels = [
            [(r.mask, enough(np.count_nonzero(r.mask), r.threshold, r.relative)) for r in regions[i]] for i in chosen
        ]
        curves[kind] = slow.spro_curve([maps[i].tolist() for i in chosen], channels)
    values = {}
    for name, limit in EXACT.items():
        areas = {kind: slow.area_up_to(curve, limit) for kind, curve in curves.items()}
        values |= {f"spro_{name:g}_{kind}": area for kind, area in areas.items()}
        values[f"spro_{name:g}"] = sum(areas.values()) / len(areas)
    return values


def enough(area, threshold, relative):
    return int(threshold * area) if relative else min(threshold, area)


@pytest.mark.parametrize("block", range(20))
def test_rational_arithmetic(block):
    thresholds = set()
    for seed in range(10 * block, 10 * block + 10):
        maps, regions, kinds = random_case(seed)
        expected = expected_values(maps, regions, kinds)
        values = spro_metrics(maps, regions, kinds)
        assert expected.keys() >= values.keys()
        assert values == pytest.approx({name: float(expected[name]) for name in values}, rel=0, abs=1e-14)
        thresholds |= {enough(np.count_nonzero(r.mask), r.threshold, r.relative) for each in regions for r in each}
    assert 1 in thresholds


def test_any_order_threads_chunks_and_tensors_give_the_same_bits():
    maps, regions, kinds = random_case(31)
    values = spro_metrics(maps, regions, kinds)
    assert len(values) == 3 * len(LIMITS)
    assert spro_metrics(maps[::-1], regions[::-1], kinds[::-1]) == values
    assert spro_metrics(maps, regions, kinds, threads=3, chunk_size=5) == values
    assert spro_metrics([torch.from_numpy(m) for m in maps], regions, kinds) == values


@pytest.mark.filterwarnings("ignore:pro_per_image", "ignore:aupimo")
def test_whole_regions_give_the_area_of_pro():
    rng = np.random.default_rng(4)
    maps, masks, regions = rng.normal(size=(4, 24, 24)).round(1), np.zeros((4, 24, 24), bool), [[], [], [], []]
    for i, (y, x, side) in ((1, (2, 3, 5)), (1, (12, 12, 8)), (2, (4, 4, 1)), (3, (0, 0, 20))):
        one = np.zeros((24, 24), bool)
        one[y : y + side, x : x + side] = True
        masks[i] |= one
        regions[i].append(Region(one, 1.0, relative=True) if side % 2 else Region(one, 10_000))
    kinds = ["good", "bad", "bad", "bad"]
    values, pro = spro_metrics(maps, regions, kinds, EXACT), pixel_metrics(maps, masks, tuple(EXACT))
    assert [*values.values()] == [pro[f"aupro_{limit:g}"] for limit in EXACT]


def test_a_part_of_a_region_is_enough():  # one pixel of two lies above all normal ones
    maps = [np.array([[9.0, 0, 1, 1]]), np.array([[1.0, 1, 1, 1]])]
    mask = np.array([[1, 1, 0, 0]])
    assert spro_metrics(maps, [[Region(mask, 1)], []], ["bad", "good"], [0.3])["spro_0.3"] == 1
    assert spro_metrics(maps, [[Region(mask, 2)], []], ["bad", "good"], [0.3])["spro_0.3"] == pytest.approx(0.5)


def test_saturation_is_truncated_as_in_the_authors_code():
    assert saturation(100, 0.29, relative=True) == 28  # 0.29 * 100 is 28.999999999999996 in float64
    assert saturation(3, 7, relative=False) == 3


@pytest.mark.parametrize(
    ("region", "kind", "message"),
    [
        (Region(np.eye(3), 0.1, relative=True), "bad", "image 1, region 0: saturates at 0 of its 3 pixels"),
        (Region(np.zeros((3, 3)), 5), "bad", "image 1, region 0: saturates at 0 of its 0 pixels"),
        (Region(np.eye(3), 1.5), "bad", "image 1, region 0: .* 1.5; an integer from 1"),
        (Region(np.eye(3), 0), "bad", "image 1, region 0: .* 0; an integer from 1"),
        (Region(np.eye(3), 1.5, relative=True), "bad", r"image 1, region 0: .* a share in \(0, 1\]"),
        (Region(np.eye(4), 1), "bad", r"image 1: map \(3, 3\) and mask \(4, 4\)"),
        (Region(np.eye(3), 1), "good", "image 1: kind 'good' with 1 regions"),
    ],
)
def test_mistakes(region, kind, message):
    with pytest.raises(ValueError, match=message):
        spro_metrics(np.zeros((2, 3, 3)), [[], [region]], ["good", kind])


def test_counts_and_limits_that_do_not_fit():
    one = [Region(np.eye(3), 1)]
    with pytest.raises(ValueError, match="2 maps and 1 kinds"):
        spro_metrics(np.zeros((2, 3, 3)), [[], one], ["good"])
    with pytest.raises(ValueError, match="image 0: kind 'bad' with 0 regions"):
        spro_metrics(np.zeros((2, 3, 3)), [[], one], ["bad", "bad"])
    with pytest.raises(ValueError, match="outside"):
        spro_metrics(np.zeros((2, 3, 3)), [[], one], ["good", "bad"], [5])
    with pytest.raises(ValueError, match="image 0: score nan"):
        spro_metrics(np.full((2, 3, 3), np.nan), [[], one], ["good", "bad"])


def test_undefined():
    with pytest.warns(UndefinedMetricWarning, match=r"spro_0\.05 undefined: no image has a defect"):
        assert np.isnan(spro_metrics(np.zeros((1, 3, 3)), [[]], ["good"], [0.05])["spro_0.05"])
    with pytest.warns(UndefinedMetricWarning, match="no image has a normal pixel"):
        found = spro_metrics(np.zeros((1, 3, 3)), [[Region(np.ones((3, 3)), 4)]], ["bad"], [0.05])
    assert np.isnan(found["spro_0.05"])


def test_seg_f1_in_rational_arithmetic():
    rng = np.random.default_rng(0)
    for case in range(200):
        shape = rng.integers(1, 7, 2)
        maps = [rng.normal(size=shape).round(case % 2) for _ in range(rng.integers(1, 4))]
        masks = [rng.random(shape) < 0.4 for _ in maps]
        masks[0][0, 0] = True
        threshold = float(rng.choice([m.flat[0] for m in maps])) if case % 3 else float(rng.normal())
        assert seg_f1(maps, masks, threshold) == float(slow.seg_f1(maps, masks, threshold))


@pytest.mark.filterwarnings("ignore:pro_per_image", "ignore:aupimo")
def test_seg_f1_never_beats_the_best_on_the_test_images():
    rng = np.random.default_rng(1)
    maps, masks = rng.normal(size=(3, 16, 16)), rng.random((3, 16, 16)) < 0.2
    best = pixel_metrics(maps, masks, [0.3])["pixel_f1_max"]
    values = [seg_f1(maps, masks, np.nextafter(t, -np.inf)) for t in np.unique(maps)]
    assert max(values) == best
    assert seg_f1(maps, masks, 2.0) < best


def test_seg_f1_compares_in_float64():  # as float32, 0.1 is above 0.1
    assert seg_f1(np.float32([[[0.1, 0.0]]]), [[[1, 0]]], 0.1) == 1
    assert seg_f1(np.float64([[[0.1, 0.0]]]), [[[1, 0]]], 0.1) == 0


def test_seg_f1_mistakes():
    with pytest.warns(UndefinedMetricWarning, match="seg_f1 undefined"):
        assert np.isnan(seg_f1(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), 0.5))
    with pytest.raises(ValueError, match="threshold nan"):
        seg_f1(np.zeros((1, 2, 2)), np.ones((1, 2, 2)), float("nan"))
    with pytest.raises(ValueError, match="2 maps and 1 masks"):
        seg_f1(np.zeros((2, 2, 2)), np.ones((1, 2, 2)), 0.5)
