import pickle
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from anomaly_bench.metrics import UndefinedMetricWarning, pixel, pixel_metrics, streaming
from anomaly_bench.metrics import aupimo as aupimo_module
from anomaly_bench.metrics.streaming import StreamingPixelMetrics
from tests.references import metrics as slow

CASES = sorted((Path(__file__).parent / "cases").glob("*.npz"))
LIMITS = (0.3, 0.05, 1.0)
RATES = (0.02, 0.4)  # of AUPIMO where images are small: else only the highest score would count
SCORES = {
    "ties": lambda x: np.round(2 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logits": lambda x: 20 + x / 400,
    "heavy tails": lambda x: np.exp(4 * x),
    "negative": lambda x: -np.exp(x),
    "one outlier": lambda x: np.where(x == x.max(), 1e6, x),
    "signed zeros": lambda x: np.round(x) * 0.0 + np.maximum(x, 0),
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "integers": lambda x: np.round(1e3 * x).astype(np.int32),
}
pytestmark = pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")


class Coarse(StreamingPixelMetrics):
    """So few bins that small inputs are coarsened, and so little waiting that they are counted many times."""

    max_bins, max_waiting = 24, 1000


class Coarsest(StreamingPixelMetrics):
    max_bins, max_waiting = 3, 100


@pytest.fixture
def wide_rates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aupimo_module, "FPR_RANGE", RATES)
        yield


def example(seed=0, n=6, size=24):
    """Images of several sizes, a third of them without a defect."""
    rng, kind = np.random.default_rng(seed), list(SCORES)[seed % len(SCORES)]
    maps, masks = [], []
    for i in range(n):
        mask = np.zeros((size - i % 4, size + i % 3), bool)
        for y, x, side in rng.integers(1, size // 2, (i % 3, 3)):
            mask[y : y + side, x : x + side // 2 + 1] = True
        maps.append(SCORES[kind](rng.normal(size=mask.shape) + rng.uniform(0, 3) * mask))
        masks.append(mask)
    return maps, masks


def streamed(maps, masks, kind=StreamingPixelMetrics, limits=LIMITS):
    metrics = kind(limits)
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update([scores], [mask])
    return metrics


def errors_and_bounds(found, exact):
    """[metrics] of both, after a check of the names."""
    assert list(found) == [*exact, *(f"{name}_bound" for name in exact)]
    values = np.array([[found[name], found[f"{name}_bound"]] for name in exact])
    np.testing.assert_array_equal(np.isnan(values).T, [np.isnan([*exact.values()])] * 2)
    return np.nan_to_num(abs(values[:, 0] - [*exact.values()])), np.nan_to_num(values[:, 1])


def test_errors_stay_within_their_bounds(wide_rates):
    every = []
    for seed in range(200):
        maps, masks = example(seed)
        errors, bounds = errors_and_bounds(streamed(maps, masks, Coarse).compute(), pixel_metrics(maps, masks, LIMITS))
        assert (errors <= bounds).all(), (seed, errors, bounds)
        every.append(np.delete(bounds, -2))  # pro_per_image is not binned
    every = np.array(every)
    assert np.mean(every < 0.2) > 0.8
    assert np.mean(every > 1e-3) > 0.6  # coarsened indeed


@st.composite
def images(draw):
    """A map and a mask of one size, on a few levels or of any finite scores."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    levels = st.sampled_from([-2.5, -0.0, 0.0, 1e-310, 3.0, np.nextafter(3.0, 4.0), 1e6, -1e307])
    elements = draw(st.sampled_from([levels, st.floats(-4, 4), st.floats(-1e307, 1e307)]))
    scores = draw(arrays(np.float64, shape, elements=elements, fill=st.nothing()))
    return scores, draw(arrays(bool, shape, fill=st.nothing())) & draw(st.booleans())


@given(pairs=st.lists(images(), min_size=1, max_size=4), kind=st.sampled_from([Coarse, Coarsest]))
def test_rational_arithmetic(pairs, kind):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aupimo_module, "FPR_RANGE", RATES)
        values = streamed(*zip(*pairs, strict=True), kind).compute()
    maps, masks = ([image.tolist() for image in images] for images in zip(*pairs, strict=True))
    normal, found = slow.split(maps, masks)
    if not normal or not found:
        assert np.isnan([*values.values()]).all()
        return
    anomalous = [s for region in found for s in region]
    exact = {"pixel_auroc": slow.auroc, "pixel_ap": slow.average_precision, "pixel_f1_max": slow.f1_max}
    exact = {name: function(anomalous, normal) for name, function in exact.items()}
    exact |= {f"aupro_{limit:g}": slow.aupro(maps, masks, Fraction(str(limit))) for limit in LIMITS}
    if not all(mask.any() for _, mask in pairs):
        exact["aupimo"] = Fraction(slow.aupimo(maps, masks, *RATES))
    for name, value in exact.items():
        assert abs(Fraction(values[name]) - value) <= Fraction(values[f"{name}_bound"]), name
    assert values["pro_per_image"] == pytest.approx(slow.pro_per_image(maps, masks), rel=0, abs=1e-12, nan_ok=True)


@given(st.lists(images(), min_size=1, max_size=8), st.sampled_from([Coarse, Coarsest]), st.data())
def test_any_order_and_any_tree_of_merges_end_in_the_same_bits(pairs, kind, data):
    expected = streamed(*zip(*pairs, strict=True), kind)
    parts = [kind(LIMITS), *(streamed([s], [m], kind) for s, m in pairs)]
    while len(parts) > 1:
        into, other = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(2))
        into.merge(pickle.loads(pickle.dumps(other)))
        parts.append(into)
    assert_same_bits(parts[0], expected)
    assert_same_bits(streamed(*zip(*data.draw(st.permutations(pairs)), strict=True), kind), expected)


def assert_same_bits(left, right):
    assert str(left.compute()) == str(right.compute())  # nan is nan here
    assert left.nbytes == right.nbytes
    for ours, theirs in zip(left.curve() or (), right.curve() or (), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def smooth(n=20, size=256, seed=0):
    """Continuous float32 maps as a network's look, a quarter of them without a defect."""
    rng = np.random.default_rng(seed)
    maps = np.exp(ndimage.gaussian_filter(rng.normal(size=(n, size, size)), (0, 4, 4)) * 8)
    masks = np.zeros(maps.shape, bool)
    for i, (y, x) in enumerate(rng.integers(0, size * 7 // 8, (n, 2))):
        masks[i, y : y + size // 6, x : x + size // 6] = i % 4 > 0
    return (maps * (1 + masks)).astype(np.float32), masks


def test_bounds_are_tight_and_parts_make_the_whole():
    maps, masks = smooth()
    whole = streamed(maps, masks)
    errors, bounds = errors_and_bounds(whole.compute(), pixel_metrics(maps, masks, LIMITS))
    assert (errors <= bounds).all()
    assert bounds.max() < 3e-5
    assert bounds[:-2].min() > 1e-7  # and coarsened
    parts = [streamed(maps[i::7], masks[i::7]) for i in (3, 0, 6, 2, 5, 1, 4)]
    for part in parts[1:]:
        parts[0].merge(part)
    assert_same_bits(parts[0], whole)
    together = StreamingPixelMetrics(LIMITS)
    together.update(maps[::-1], masks[::-1])
    assert_same_bits(together, whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_few_scores_are_not_rounded(dtype):
    maps, masks = smooth(8, 64)
    maps = np.round(10 * maps).clip(0, 200).astype(dtype)
    metrics = streamed(maps, masks)
    errors, bounds = errors_and_bounds(metrics.compute(), pixel_metrics(maps, masks, LIMITS))
    assert max(*errors, *bounds) < 1e-10
    expected = pixel.pixel_metrics_and_curve(maps, masks, {}, threads=1)[1]
    curve = metrics.curve()
    for name in pixel.Curve._fields[:-1]:  # the exact one keeps `per_image_pro` too
        inexact = 1e-10 if name == "overlap" else 0  # a region's weight is rounded
        np.testing.assert_allclose(getattr(curve, name), getattr(expected, name), rtol=0, atol=inexact)


@pytest.mark.parametrize(("distinct", "exact"), [(24, True), (25, False)])
def test_as_many_scores_as_bins_are_exact(distinct, exact):
    maps, masks = np.random.default_rng(0).integers(0, distinct, (4, 20, 20)), np.zeros((4, 20, 20), bool)
    assert len(np.unique(maps)) == distinct
    masks[1:, 5:12, 5:12] = True
    assert (streamed(maps, masks, Coarse).compute()["pixel_auroc_bound"] < 1e-10) == exact


def test_the_curve_is_exact_where_it_is_known():
    maps, masks = (np.concatenate([x.ravel() for x in part]) for part in example(8))
    curve = streamed([maps[None]], [masks[None]], Coarse).curve()
    assert 3 < len(curve.thresholds) <= 24
    assert (np.diff(curve.thresholds) < 0).all()
    for threshold, true, false in zip(*curve[:3], strict=True):
        assert (true, false) == (np.sum(maps[masks] >= threshold), np.sum(maps[~masks] >= threshold))
    assert (curve.anomalous, curve.normal) == (masks.sum(), (~masks).sum())


@pytest.mark.parametrize("kind", [StreamingPixelMetrics, Coarse])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path, kind):
    with np.load(path) as case:
        case = dict(case)
    scores, masks = case["scores"], case["masks"]
    if not np.isfinite(scores).all():
        with pytest.raises(ValueError, match=r"score .* at row"):
            kind().update(scores, masks)
        return
    values = streamed(scores, masks, kind).compute()
    errors, bounds = errors_and_bounds(values, pixel_metrics(scores, masks, LIMITS))
    assert (errors <= bounds).all()
    for ours, theirs in {"aupro_0.3": "aupro_exact", "aupro_0.05": "aupro05_exact", "pixel_ap": "ap"}.items():
        if masks.any() and not masks.all():
            assert abs(values[ours] - case[theirs].item()) <= values[f"{ours}_bound"]


def test_the_state_is_bounded_for_distinct_scores_over_all_exponents():
    rng = np.random.default_rng(0)
    metrics, maps, masks = StreamingPixelMetrics(), [], []
    for i in range(4):
        scores = rng.integers(0, 2**64, (512, 512), np.uint64).view(np.float64)
        scores[~(abs(scores) < 8e307)] = 0
        maps.append(scores)
        masks.append(rng.random(scores.shape) < 0.1 * i)  # tens of thousands of regions
        metrics.update(maps[-1:], masks[-1:])
        assert metrics.nbytes <= 10e6
        assert len(pickle.dumps(metrics)) <= 10e6
    errors, bounds = errors_and_bounds(metrics.compute(), pixel_metrics(maps, masks))
    assert (errors <= bounds).all()
    assert bounds.max() < 1e-4


def test_the_state_is_bounded_for_many_images():
    maps, masks = smooth(150, 64)
    metrics = StreamingPixelMetrics()
    for _ in range(3):
        for scores, mask in zip(maps, masks, strict=True):
            metrics.update([scores], [mask])
            assert metrics.nbytes <= 10e6
    assert metrics.curve().normal == 3 * np.sum(~masks)


def test_every_kind_of_array_gives_the_same(tmp_path):
    maps, masks = smooth(4, 32)
    maps = np.round(16 * maps) / 16
    expected = streamed(maps, masks).compute()
    np.save(tmp_path / "maps.npy", maps)
    tensors = torch.from_numpy(maps), torch.from_numpy(masks)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    for same in (tensors, (mapped, 255 * masks), (maps.astype(">f8"), masks.astype(float)), (maps.tolist(), masks)):
        metrics = StreamingPixelMetrics(LIMITS)
        metrics.update(*same)
        assert metrics.compute() == expected


def test_maps_are_copied():  # a caller may fill the same buffer for each image
    maps, masks = smooth(4, 32)
    metrics = StreamingPixelMetrics(LIMITS)
    buffer = np.empty_like(maps[:1])
    for i in range(4):
        buffer[:] = maps[i]
        metrics.update(buffer, masks[i : i + 1])
    np.testing.assert_array_equal(buffer[0], maps[3])
    buffer[:] = 0
    assert metrics.compute() == streamed(maps, masks).compute()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, "image 7: score nan at row 5, column 3;"),
        (-np.inf, "image 7: score -inf at row 5, column 3;"),
        (2**53, "image 7: float64 cannot hold each score"),
    ],
)
def test_an_update_that_fails_adds_nothing(bad, message):
    maps, masks = example()
    metrics = streamed(maps, masks, Coarse)
    broken = [maps[1], np.zeros((8, 8), type(bad))]
    broken[1][5, 3] = bad
    before = pickle.dumps(vars(metrics))
    with pytest.raises(ValueError, match=message):
        metrics.update(broken, [masks[1], np.eye(8)])
    assert pickle.dumps(vars(metrics)) == before
    assert_same_bits(metrics, streamed(maps, masks, Coarse))


def test_wider_floats_are_not_rounded():
    wide = np.array([[1, 2]], np.longdouble)
    StreamingPixelMetrics().update([wide], [[[0, 1]]])
    if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps:
        with pytest.raises(ValueError, match="image 0: float64 cannot hold"):
            StreamingPixelMetrics().update([np.nextafter(wide, 3)], [[[0, 1]]])


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "at least one"),
        (np.zeros((2, 3, 3)), np.zeros((1, 3, 3)), "2 maps and 1 masks"),
        ([np.zeros((2, 3))] * 2, [np.zeros((2, 3)), np.zeros((3, 2))], r"image 1: map \(2, 3\) and mask \(3, 2\)"),
        (np.zeros((1, 2, 2), complex), np.zeros((1, 2, 2)), "real numbers"),
    ],
)
def test_mistakes(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        StreamingPixelMetrics().update(maps, masks)


def test_limits():
    with pytest.raises(ValueError, match=r"30 is outside \(0, 1\]"):
        StreamingPixelMetrics((0.3, 30))
    with pytest.raises(ValueError, match=r"aupro_0.05.* cannot be merged into .*'aupro_0.3'"):
        StreamingPixelMetrics((0.3,)).merge(StreamingPixelMetrics((0.05,)))


def test_too_many_regions(monkeypatch):
    monkeypatch.setattr(streaming, "UNIT", 2**60)
    metrics = StreamingPixelMetrics()
    metrics.update([np.zeros((8, 8))], [np.eye(8)])
    dots = np.zeros((8, 8))
    dots[::2, ::2] = 1
    metrics.update([dots], [dots])  # it waits
    with pytest.raises(ValueError, match="17 regions; fewer than 8"):
        metrics.compute()


def undefined_cases():
    maps, masks = [np.arange(16.0).reshape(4, 4)] * 3, np.zeros((3, 4, 4), bool)
    corner = masks.copy()
    corner[1:, 0, 0] = True
    full = masks.copy()
    full[1] = True
    flat = [maps[0], np.zeros((4, 4)), np.zeros((4, 4))]
    return {
        "no anomalous pixel": (maps, masks),
        "no normal pixel": (maps, ~masks),
        "no image with both": (maps, full),
        "no image without a defect": (maps[1:], corner[1:]),
        "flat": (flat, corner),
        "defined": (maps, corner),
    }


@pytest.mark.parametrize("name", undefined_cases())
def test_undefined_is_nan_with_the_same_warnings(name):
    maps, masks = undefined_cases()[name]
    parts = streamed(maps[:1], masks[:1]), streamed(maps[1:], masks[1:])
    parts[0].merge(parts[1])
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        exact = pixel_metrics(maps, masks, LIMITS)
    for metrics in (streamed(maps, masks), parts[0]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            errors, bounds = errors_and_bounds(metrics.compute(), exact)
        assert (errors <= bounds).all()
        assert [str(w.message) for w in caught] == [str(w.message) for w in expected]
        assert {(w.category, w.filename) for w in caught} <= {(UndefinedMetricWarning, __file__)}
    assert len(expected) == (name != "defined")
    assert (metrics.curve() is None) == (name in {"no anomalous pixel", "no normal pixel"})


def test_no_image_at_all():
    with pytest.warns(UndefinedMetricWarning, match="no image has an anomalous pixel"):
        assert np.isnan([*StreamingPixelMetrics().compute().values()]).all()
