"""Ignored pixels: every metric as if they were not there."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from anomaly_bench.metrics import Region, StreamingPixelMetrics, measure, pixel_metrics, seg_f1, spro_metrics
from anomaly_bench.metrics import aupimo as aupimo_module
from anomaly_bench.metrics.spro import LIMITS as SPRO_LIMITS
from tests.references import metrics as slow

pytestmark = pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
LIMITS = {0.3: Fraction(3, 10), 1.0: Fraction(1)}
LABELS, SCORES = np.array([0, 1, 1, 1]), np.array([0.2, 0.1, 0.6, 0.7])


def random_case(seed):
    """Up to 5 images of different sizes, with ties in every other case; some are ignored as a whole."""
    rng = np.random.default_rng(seed)
    maps, masks, ignored = [], [], []
    for _ in range(rng.integers(1, 6)):
        shape = rng.integers(1, 8, 2)
        scores = rng.normal(size=shape)
        maps.append(scores.round(0) if seed % 2 else scores)
        masks.append(rng.random(shape) < rng.choice([0, 0.3, 0.6]))
        ignored.append(rng.random(shape) < rng.choice([0, 0.2, 0.5, 1], p=[0.2, 0.4, 0.3, 0.1]))
    return maps, masks, ignored


def with_none(mask, ignored):
    """A mask as the references read it."""
    return [[None if i else bool(m) for m, i in zip(*rows, strict=True)] for rows in zip(mask, ignored, strict=True)]


def expected_values(maps, masks):
    """Of masks with None where a pixel is ignored; None where nothing is left to measure."""
    maps = [scores.tolist() for scores in maps]
    normal, regions = slow.split(maps, masks)
    if not normal or not regions:
        return None
    anomalous = [score for region in regions for score in region]
    values = [f(anomalous, normal) for f in (slow.auroc, slow.average_precision, slow.f1_max)]
    values += [slow.aupro(maps, masks, limit) for limit in LIMITS.values()]
    good = any(not any(slow.flat(mask)) and slow.of_normal(slow.flat(mask), slow.flat(mask)) for mask in masks)
    aupimo = slow.aupimo(maps, masks, *aupimo_module.FPR_RANGE) if good else float("nan")
    return [*map(float, values), slow.pro_per_image(maps, masks), aupimo]


@pytest.mark.parametrize("block", range(12))
def test_rational_arithmetic(block, monkeypatch):
    monkeypatch.setattr(aupimo_module, "FPR_RANGE", (0.02, 0.4))  # else only the highest scores would count
    measured = 0
    for seed in range(10 * block, 10 * block + 10):
        maps, masks, ignored = random_case(seed)
        expected = expected_values(maps, [with_none(m, i) for m, i in zip(masks, ignored, strict=True)])
        values = pixel_metrics(maps, masks, tuple(LIMITS), ignored=ignored)
        state = StreamingPixelMetrics(tuple(LIMITS))
        state.update(maps[:1], masks[:1], ignored[:1])
        if len(maps) > 1:
            state.update(maps[1:], masks[1:], ignored[1:])
        streamed = state.compute()
        if expected is None:
            assert np.isnan(list(values.values())).all()
            continue
        measured += 1
        assert list(values.values()) == pytest.approx(expected, rel=0, abs=1e-13, nan_ok=True)
        for name, value in values.items():
            assert streamed[name] == pytest.approx(value, rel=0, abs=streamed[f"{name}_bound"], nan_ok=True)
        assert pixel_metrics(maps, masks, tuple(LIMITS), ignored=ignored, threads=2, chunk_size=3) == pytest.approx(
            values, rel=0, abs=0, nan_ok=True
        )
    assert measured >= 3


def example(seed=0, n=4, side=24):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    masks[1:, 6:14, 4:12] = True
    return (rng.normal(size=masks.shape) + masks).astype(np.float32), masks


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_an_ignored_frame_is_as_good_as_cut_off(memory_mb):
    maps, masks = example()
    ignored = np.ones(masks.shape, bool)
    ignored[:, 5:20, 2:23] = False
    whole = measure(SCORES, LABELS, maps, masks, ignored, memory_mb=memory_mb, resamples=30)
    cut = np.s_[:, 5:20, 2:23]
    assert whole == measure(SCORES, LABELS, maps[cut], masks[cut], memory_mb=memory_mb, resamples=30)
    assert whole.metrics != measure(SCORES, LABELS, maps, masks, memory_mb=memory_mb).metrics
    threshold = float(np.quantile(maps, 0.8))
    assert seg_f1(maps, masks, threshold, ignored=ignored) == seg_f1(maps[cut], masks[cut], threshold)


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_ignored_pixels_nowhere_change_no_bit(memory_mb):
    maps, masks = example()
    nowhere = np.zeros(masks.shape, bool)
    with_them = measure(SCORES, LABELS, maps, masks, nowhere, memory_mb=memory_mb, resamples=30)
    assert with_them == measure(SCORES, LABELS, maps, masks, memory_mb=memory_mb, resamples=30)


def test_what_stands_in_ignored_pixels_is_never_looked_at():
    maps, masks = example()
    ignored = np.random.default_rng(1).random(masks.shape) < 0.3
    values = pixel_metrics(maps, masks, ignored=ignored)
    assert pixel_metrics(np.where(ignored, 1e9, maps), np.where(ignored, ~masks, masks), ignored=ignored) == values
    tensors = [torch.from_numpy(array) for array in (maps, masks, ignored)]
    assert pixel_metrics(*tensors[:2], ignored=tensors[2]) == values
    assert pixel_metrics(maps, masks, ignored=ignored.tolist()) == values


def test_a_region_that_is_cut_in_two_counts_twice():
    mask, ignored = np.array([[1, 1, 1, 1, 1, 0]]), np.array([[False, True, False, False, False, False]])
    scores = np.array([[9.0, 0.0, 1.0, 1.0, 1.0, 5.0]])  # the left part is found, the right one is not
    assert pixel_metrics([scores], [mask], [0.5], ignored=[ignored])["aupro_0.5"] == 0.5
    assert pixel_metrics([scores], [mask], [0.5])["aupro_0.5"] == pytest.approx(1 / 5)


def test_an_image_of_which_all_anomalous_pixels_are_ignored_stays_anomalous():
    maps, masks = example()
    ignored = np.zeros(masks.shape, bool)
    ignored[1] = masks[1]
    found = measure(SCORES, LABELS, maps, masks, ignored, memory_mb=100, resamples=0)
    assert found["image_auroc"] == measure(SCORES, LABELS, memory_mb=100, resamples=0)["image_auroc"] == 2 / 3
    assert found["pixel_auroc"] < 1


def test_nothing_left():
    maps, masks = example()
    assert np.isnan(list(pixel_metrics(maps, masks, ignored=masks).values())).all()
    assert np.isnan(list(pixel_metrics(maps, masks, ignored=~masks).values())).all()
    assert np.isnan(seg_f1(maps, masks, 0.0, ignored=masks))


@pytest.mark.parametrize("block", range(6))
def test_spro_in_rational_arithmetic(block):
    for seed in range(10 * block, 10 * block + 10):
        maps, masks, ignored = random_case(seed)
        kinds = ["bad" if mask.any() else "good" for mask in masks]
        regions = [[Region(mask, 0.4, relative=True), Region(mask, 3)] if mask.any() else [] for mask in masks]
        regions = [[r for r in each if not r.relative or 0.4 * r.mask.sum() >= 1] for each in regions]
        nones = [with_none(m, i) for m, i in zip(masks, ignored, strict=True)]
        sizes = [sum(map(bool, slow.flat(mask))) for mask in nones]
        channels = [
            [(mask, max(1, int(0.4 * size)) if r.relative else min(3, size)) for r in each if size]
            or [(np.where(i, None, False).tolist(), 1)]
            for each, mask, size, i in zip(regions, nones, sizes, ignored, strict=True)
        ]
        values = spro_metrics(maps, regions, kinds, ignored=ignored)
        pixels = [pixel for mask in nones for pixel in slow.flat(mask)]
        if True not in pixels or False not in pixels:
            assert np.isnan(list(values.values())).all()
            continue
        curve = slow.spro_curve([scores.tolist() for scores in maps], channels)
        expected = [float(slow.area_up_to(curve, Fraction(str(limit)))) for limit in SPRO_LIMITS]
        assert list(values.values()) == pytest.approx(expected, rel=0, abs=1e-13)


def test_a_kind_of_which_nothing_is_left_does_not_count():
    maps, masks = example()
    kinds, ignored = ["good", "bent", "bent", "cut"], np.zeros(masks.shape, bool)
    ignored[3] = masks[3]
    regions = [[Region(mask, 1)] if mask.any() else [] for mask in masks]
    values = spro_metrics(maps, regions, kinds, ignored=ignored)
    assert values == spro_metrics(maps[:3], regions[:3], kinds[:3])
    assert len(spro_metrics(maps, regions, kinds)) == 3 * len(values)


@pytest.mark.parametrize(
    ("ignored", "what"),
    [
        (np.zeros((4, 24, 24), np.uint8), "the ignored pixels are uint8 [24, 24]; bool [24, 24] is needed"),
        (np.zeros((4, 24, 24)), "the ignored pixels are float64 [24, 24]; bool [24, 24] is needed"),
        (np.zeros((4, 24, 23), bool), "the ignored pixels are bool [24, 23]; bool [24, 24] is needed"),
        (np.zeros((3, 24, 24), bool), "4 maps and ignored pixels of 3 images"),
    ],
)
def test_mistakes(ignored, what):
    maps, masks = example()
    regions = [[Region(mask, 1)] if mask.any() else [] for mask in masks]
    for call in (
        lambda: pixel_metrics(maps, masks, ignored=ignored),
        lambda: StreamingPixelMetrics().update(maps, masks, ignored),
        lambda: seg_f1(maps, masks, 0.0, ignored=ignored),
        lambda: spro_metrics(maps, regions, ["good", "bad", "bad", "bad"], ignored=ignored),
    ):
        with pytest.raises(ValueError, match="ignored") as error:
            call()
        assert what in str(error.value)
