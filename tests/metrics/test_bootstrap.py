import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from anomaly_bench.metrics import bootstrap, image_metrics, pixel_metrics
from anomaly_bench.metrics.bootstrap import draw_weights, pixel_intervals, resampled_intervals
from anomaly_bench.metrics.inputs import check_limits
from anomaly_bench.metrics.pixel import pixel_metrics_and_curve

pytestmark = pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
LIMITS = check_limits((0.3, 0.05, 1.0))


def example(seed=0, n=12, size=32, decimals=9):
    """Images that differ from each other; every third is good, and some defects are hard to see."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, size, size), bool)
    for i in range(1, n):
        for y, x, side in rng.integers(2, size // 2, (3, 3)):
            masks[i, y : y + side, x : x + side // 2 + 1] = i % 3 > 0
    scores = rng.normal(size=masks.shape) * rng.uniform(0.5, 1.5, (n, 1, 1)) + masks * rng.normal(2, 1, (n, 1, 1))
    return scores.round(decimals).astype(np.float32), masks


def intervals(maps, masks, **options):
    """Pixel intervals and the values that they belong to."""
    values, curve = pixel_metrics_and_curve(maps, masks, LIMITS, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pixel_intervals(maps, masks, values, curve, LIMITS, **options), values


def resampled(strata, resamples, seed):
    """The bootstrap spelled out: lists of image numbers, an image as often as it is drawn."""
    drawn = zip(*draw_weights([len(s) for s in strata], resamples, seed, rows=64), strict=True)
    for weights in zip(*map(np.concatenate, drawn), strict=True):
        yield np.concatenate([np.repeat(s, w.astype(int)) for s, w in zip(strata, weights, strict=True)])


def written_out(values, replicates, strata, level):
    """{name: (low, high)} around each value from those of each replicate, one by one."""
    n = min(len(stratum) for stratum in strata if len(stratum))
    found = {}
    for name, value in values.items():
        drawn = [each[name] for each in replicates if not math.isnan(each[name])]
        if n == 1 or min(value, 1 - value) < 1e-12:
            found[name] = (math.nan, math.nan)
            continue
        kept = [min(max(each, value / 10), (9 + value) / 10) for each in drawn]
        deviation = statistics.pstdev(math.log(each / (1 - each)) for each in kept)
        half = student.ppf((1 + level) / 2, n - 1) * deviation * math.sqrt(n / (n - 1))
        odds = value / (1 - value)
        found[name] = tuple(odds * math.exp(off) / (1 + odds * math.exp(off)) for off in (-half, half))
    return found


def assert_close(found, expected, tolerance):
    assert list(found) == list(expected)
    for name, bounds in found.items():
        assert bounds == pytest.approx(expected[name], rel=0, abs=tolerance, nan_ok=True), name


def test_draws():
    bad, good = (np.concatenate(w) for w in zip(*draw_weights((5, 5), 200, seed=1, rows=64), strict=True))
    assert bad.shape == (200, 5)
    assert good.shape == (200, 5)
    assert set(bad.sum(1)) == {5}
    assert set(good.sum(1)) == {5}
    assert bad.mean(0) == pytest.approx(np.ones(5), abs=0.25)  # four standard errors
    assert bad.var(0) == pytest.approx(np.full(5, 0.8), abs=0.4)  # a multinomial's
    assert abs(np.corrcoef(bad.ravel(), good.ravel())[0, 1]) < 0.2  # each kind by itself


def test_draws_depend_on_the_seed_only():
    whole = [np.concatenate(w) for w in zip(*draw_weights((5, 3), 20, seed=1, rows=64), strict=True)]
    parts = [np.concatenate(w) for w in zip(*draw_weights((5, 3), 20, seed=1, rows=3), strict=True)]
    other = [np.concatenate(w) for w in zip(*draw_weights((5, 3), 20, seed=2, rows=64), strict=True)]
    for i in range(2):
        np.testing.assert_array_equal(whole[i], parts[i])
        assert not np.array_equal(whole[i], other[i])
    assert whole[0][:3].tolist() == [[1, 0, 2, 1, 1], [1, 2, 0, 0, 2], [0, 2, 1, 0, 2]]


@pytest.mark.parametrize("decimals", [9, 0])  # 0: heavy ties
@pytest.mark.parametrize(("resamples", "level"), [(2, 0.5), (150, 0.95), (150, 0.3)])
def test_image_intervals_spelled_out(decimals, resamples, level):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 40)
    scores = (rng.normal(size=40) + labels).round(decimals)
    strata = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    replicates = [image_metrics(scores[i], labels[i]) for i in resampled(strata, resamples, 7)]
    found = resampled_intervals(scores, labels, resamples=resamples, seed=7, level=level)
    assert_close(found, written_out(image_metrics(scores, labels), replicates, strata, level), 1e-12)


@pytest.mark.parametrize(("decimals", "tolerance"), [(1, 1e-12), (9, 1e-3)])  # 1: fewer than 512 distinct scores
@pytest.mark.parametrize(("resamples", "level"), [(2, 0.5), (70, 0.9)])
def test_pixel_intervals_spelled_out(decimals, tolerance, resamples, level):
    maps, masks = example(decimals=decimals)
    assert (len(np.unique(maps[masks])) <= bootstrap.THRESHOLDS) == (decimals == 1)
    strata = np.flatnonzero(masks.any((1, 2))), np.flatnonzero(~masks.any((1, 2)))
    replicates = [pixel_metrics(maps[i], masks[i], LIMITS.values()) for i in resampled(strata, resamples, 5)]
    found, values = intervals(maps, masks, resamples=resamples, seed=5, level=level)
    assert list(found) == list(values)
    assert not np.isnan(list(values.values())).any()
    assert_close(found, written_out(values, replicates, strata, level), tolerance)


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 1e6]), st.booleans()), min_size=1, max_size=12))
def test_images_of_one_pixel(images):
    scores, labels = map(np.array, zip(*images, strict=True))
    expected = resampled_intervals(scores, labels, resamples=30)
    if labels.all() or not labels.any():
        assert np.isnan(list(expected.values())).all()
        return
    found, _ = intervals(scores[:, None, None], labels[:, None, None], resamples=30)
    assert_close({k.replace("pixel", "image"): v for k, v in found.items() if k[:6] == "pixel_"}, expected, 1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [0, 3])
def test_lines_between_thresholds_change_little(seed, shift):
    maps, masks = example(seed, n=20, size=64)
    values, curve = pixel_metrics_and_curve(maps + masks * np.float32(shift), masks, LIMITS, 1)
    thresholds = bootstrap.choose_thresholds(curve)
    assert len(thresholds) <= bootstrap.THRESHOLDS < len(curve.thresholds)
    assert thresholds[[0, -1]].tolist() == curve.thresholds[[-1, 0]].tolist()
    seen = bootstrap.histograms(maps + masks * np.float32(shift), masks, thresholds, lambda items, _: items)
    binned = bootstrap.weighted_metrics(seen, np.ones((1, len(seen.anomalous))), np.ones((1, len(seen.normal))), LIMITS)
    for name, value in values.items():
        assert binned[name][0] == pytest.approx(value, rel=0, abs=1e-3), name


@pytest.mark.parametrize("thresholds", [512, 8])  # few of them cost accuracy, which the shift takes off
def test_one_image_of_each_kind(monkeypatch, thresholds):
    monkeypatch.setattr(bootstrap, "THRESHOLDS", thresholds)
    maps, masks = example(n=2, size=64)
    found, values = intervals(maps, masks, resamples=20)
    assert found.keys() == values.keys()
    assert np.isnan(list(found.values())).all()  # nothing scatters
    assert np.isnan(list(resampled_intervals([0.3, 0.1], [0, 1]).values())).all()


def covered(truth, bounds):
    return np.mean([low <= truth <= high for low, high in bounds])


def test_image_coverage():
    rng, labels, bounds = np.random.default_rng(0), np.arange(80) % 2, []
    for _ in range(200):
        scores = rng.normal(size=80) + labels
        bounds.append(resampled_intervals(scores, labels, resamples=300)["image_auroc"])
    assert 0.88 <= covered(math.erfc(-1 / 2) / 2, bounds) <= 0.99  # P(a > n) of normal scores, distance 1


@pytest.mark.parametrize(
    ("draws", "low", "high"), [(60, 0.86, 1), pytest.param(200, 0.88, 0.99, marks=pytest.mark.slow)]
)
def test_pixel_coverage(draws, low, high):  # pixels of one image move together: one by one, they would cover a third
    rng, masks, bounds = np.random.default_rng(0), np.zeros((40, 6, 6), bool), []
    masks[::2] = True
    for _ in range(draws):
        maps = (rng.normal(size=masks.shape) + rng.normal(size=(40, 1, 1)) + 2 * masks).round(1)  # few thresholds
        bounds.append(intervals(maps, masks, resamples=200)[0]["pixel_auroc"])
    assert low <= covered(math.erfc(-1 / math.sqrt(2)) / 2, bounds) <= high  # distance 2, variance 1 + 1


def test_intervals_hold_the_value_and_grow_with_the_level():
    maps, masks = example()
    narrow, values = intervals(maps, masks, level=0.9)
    wide, _ = intervals(maps, masks, level=0.99)
    scores, labels = maps.max((1, 2)), masks.any((1, 2))
    narrow |= resampled_intervals(scores, labels, level=0.9)
    wide |= resampled_intervals(scores, labels, level=0.99)
    assert len(narrow) == 11
    for name, value in {**values, **image_metrics(scores, labels)}.items():
        (low, high), (lowest, highest) = narrow[name], wide[name]
        assert lowest <= low < value < high <= highest, name


def test_seeds():
    maps, masks = example()
    first, again, other = (intervals(maps, masks, resamples=50, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_perfect_separation():
    maps, masks = example()
    found, values = intervals(maps + 100 * masks, masks, resamples=50)
    assert values.pop("pro_per_image") > 0.9
    assert min(values.values()) > 1 - 1e-12
    assert np.isnan([found[name] for name in values]).all()  # no replicate has another value
    assert np.isnan(list(resampled_intervals(np.arange(9.0), np.arange(9) > 4, resamples=50).values())).all()


def test_bounds_stay_in_range():  # the shift could carry them out
    maps, masks = example(n=6)
    for bounds in intervals(maps + 5 * masks, masks)[0].values():
        assert 0 <= bounds[0] <= bounds[1] <= 1


def test_images_of_different_sizes_and_one_read_of_each():
    class Once(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    maps, masks = example(decimals=1)
    maps, masks = ([x[: 8 + 2 * i, i:] for i, x in enumerate(stack)] for stack in (maps, masks))
    values, curve = pixel_metrics_and_curve(maps, masks, LIMITS, 1)
    read, shown = [], []
    track = lambda items, description: shown.append(description) or items  # noqa: E731
    found = pixel_intervals(Once(maps), masks, values, curve, LIMITS, resamples=2, seed=3, track=track)
    assert read == list(range(12))
    assert len(shown) == 1
    strata = [[i for i in range(12) if masks[i].any() == kind] for kind in (True, False)]
    replicates = [
        pixel_metrics([maps[i] for i in drawn], [masks[i] for i in drawn], LIMITS.values())
        for drawn in resampled(strata, 2, 3)
    ]
    assert_close(found, written_out(values, replicates, strata, 0.95), 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int64"])
def test_score_types(dtype):
    maps, masks = example()
    maps = np.clip(np.round(10 * maps) + 50, 0, 100)  # exact in each of them
    assert intervals(maps.astype(dtype), masks, resamples=5)[0] == intervals(maps, masks, resamples=5)[0]


def test_tensors():
    torch = pytest.importorskip("torch")
    maps, masks = example()
    same, _ = intervals(torch.from_numpy(maps), torch.from_numpy(masks), resamples=5)
    assert same == intervals(maps, masks, resamples=5)[0]


def test_undefined_values_have_no_bounds():
    maps, masks = example()
    bad = masks.any((1, 2))
    found, values = intervals(maps[bad], masks[bad], resamples=5)  # no good image
    assert np.isnan(values["aupimo"])
    assert np.isnan(found["aupimo"]).all()
    assert not np.isnan([found[name] for name in found if name != "aupimo"]).any()
    maps[1] = masks[1]  # a curve without width
    found, values = intervals(maps, masks, resamples=5)
    assert np.isnan(values["pro_per_image"])
    assert np.isnan(found["pro_per_image"]).all()
    assert not np.isnan(found["aupimo"]).any()
    for labels in ([0, 0, 0], [1, 1, 1]):
        assert np.isnan(list(resampled_intervals([1.0, 2.0, 3.0], labels, resamples=5).values())).all()


def test_a_replicate_without_normal_pixels_is_left_out():
    maps, masks = example(n=3, decimals=1)
    maps, masks = maps[1:], masks[1:]
    masks[1] = True
    strata = np.arange(2), np.arange(0)
    replicates = [pixel_metrics(maps[i], masks[i], LIMITS.values()) for i in resampled(strata, 40, 0)]
    assert np.isnan([r["pixel_ap"] for r in replicates]).sum() in range(3, 20)
    found, values = intervals(maps, masks, resamples=40)
    assert np.isnan(found.pop("aupimo")).all()
    del values["aupimo"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aupimo: no good image
        assert_close(found, written_out(values, replicates, strata, 0.95), 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resamples": 0}, "resamples: 0"), ({"level": 1.0}, "level: 1.0"), ({"level": 95}, "level: 95")],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        resampled_intervals([0.0, 1.0], [0, 1], **options)
    with pytest.raises(ValueError, match=message):
        intervals(*example(), **options)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_no_bit(threads):
    maps, masks = example()
    assert intervals(maps, masks, resamples=20, threads=threads) == intervals(maps, masks, resamples=20)
