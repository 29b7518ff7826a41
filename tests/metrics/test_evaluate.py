"""The one call that runs and `bench eval` make: which path it takes, and what it says of it."""

import json
import math

import numpy as np
import pytest
from test_pixel_metrics import example

from anomaly_bench.metrics import Measurement, image_metrics, measure, pixel_metrics

pytestmark = pytest.mark.filterwarnings("ignore:pro_per_image")


def inputs(n=12):
    maps, masks = example(n=n)
    masks[: n // 3] = False
    return maps.max(axis=(1, 2)), masks.any(axis=(1, 2)).astype(int), maps, masks


def test_maps_that_fit_are_measured_exactly():
    scores, labels, maps, masks = inputs()
    measured = measure(scores, labels, maps, masks, memory_mb=1, resamples=50)
    assert measured.metrics == image_metrics(scores, labels) | pixel_metrics(maps, masks)
    assert (measured.how, measured.bounds) == ("exact", {})
    assert set(measured.intervals) == set(measured.metrics)
    assert all(low <= high for low, high in measured.intervals.values())
    assert all(0 <= low <= high <= 1 for low, high in measured.intervals.values())


def test_larger_ones_are_streamed_within_bounds():
    scores, labels, maps, masks = inputs()
    shown = []

    def track(items, description):
        shown.append((len(items), description))
        return items

    limit = maps.nbytes / 2**20
    exact = measure(scores, labels, maps, masks, memory_mb=limit, resamples=0)
    streamed = measure(scores, labels, maps, masks, memory_mb=limit - 1e-6, resamples=0, track=track)
    assert (exact.how, streamed.how) == ("exact", "streaming")
    assert shown == [(12, "measuring")]
    assert list(streamed.metrics) == list(exact.metrics)
    assert set(streamed.bounds) == set(exact.metrics) - {"image_auroc", "image_ap", "image_f1_max"}
    for name, bound in streamed.bounds.items():
        assert abs(streamed.metrics[name] - exact.metrics[name]) <= bound < 1e-6  # few pixels: no bin is shared
    assert streamed.intervals == exact.intervals == {}


def test_both_paths_have_the_same_intervals():
    scores, labels, maps, masks = inputs()
    exact, streamed = (measure(scores, labels, maps, masks, memory_mb=mb, resamples=200) for mb in (100, 0))
    assert streamed.how == "streaming"
    for name, interval in exact.intervals.items():
        assert streamed.intervals[name] == pytest.approx(interval, abs=1e-6), name


def test_without_maps_or_masks_the_image_metrics_remain():
    scores, labels, maps, masks = inputs()
    expected = image_metrics(scores, labels)
    for some in ((), (maps,), (None, masks)):
        measured = measure(scores, labels, *some, memory_mb=1, resamples=20)
        assert measured.metrics == expected
        assert set(measured.intervals) == set(expected)


@pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
def test_undefined_metrics_have_undefined_intervals():
    scores, labels, maps, masks = inputs()
    for memory_mb in (100, 0):
        measured = measure(scores, 0 * labels, maps, 0 * masks, memory_mb=memory_mb, resamples=20)
        assert all(math.isnan(value) for value in measured.metrics.values())
        assert all(math.isnan(end) for interval in measured.intervals.values() for end in interval)
        assert set(measured.metrics) == set(measured.intervals)


def test_the_record_is_all_but_the_metrics():
    measured = Measurement({"image_auroc": 0.9}, "streaming", {"aupro_0.3": 1e-5}, {"image_auroc": (0.8, 1.0)}, 1000)
    assert json.loads(json.dumps(measured.record())) == {
        "how": "streaming",
        "bounds": {"aupro_0.3": 1e-5},
        "intervals": {"image_auroc": [0.8, 1.0]},
        "resamples": 1000,
        "level": 0.95,
        "seed": 0,
    }


def test_the_largest_value_of_a_map_may_be_its_score():
    scores, labels, maps, masks = inputs()
    assert np.array_equal(scores, [m.max() for m in maps])
    with pytest.raises(ValueError, match="image 2 is nan"):
        measure(np.where(np.arange(12) == 2, np.nan, scores), labels, maps, masks, memory_mb=1)
