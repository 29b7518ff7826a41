"""Curves to look at: every point of them is a point of the exact curve, and few are enough to see it."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_bench.metrics import StreamingPixelMetrics, image_metrics, pixel_metrics
from anomaly_bench.metrics.curves import POINTS, curves, image_roc
from anomaly_bench.metrics.pixel import pixel_metrics_and_curve


def area(points, width=1.0):
    """Trapezoids up to x = width."""
    x, y = np.array(points["x"]), np.array(points["y"])
    end = np.interp(width, x, y)
    kept = x < width
    x, y = np.append(x[kept], width), np.append(y[kept], end)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) / width


def images(n, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(int)
    scores = rng.normal(size=n) + labels
    return (scores if decimals is None else scores.round(decimals)), labels


def maps_and_masks(n=6, side=24, decimals=None):
    rng = np.random.default_rng(1)
    masks = np.zeros((n, side, side), bool)
    masks[1:4, 3:9, 4:12] = True
    masks[2, 15:20, 15:20] = True
    maps = rng.normal(size=masks.shape) + 1.5 * masks
    return (maps if decimals is None else maps.round(decimals)), masks


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_image_roc_of_few_images_is_the_whole_curve(decimals):
    scores, labels = images(60, decimals=decimals)
    points = image_roc(scores, labels)
    assert len(points["x"]) <= POINTS
    assert area(points) == pytest.approx(image_metrics(scores, labels)["image_auroc"], abs=1e-5)


def test_points_are_on_the_curve_and_rise():
    scores, labels = images(5000)
    points = image_roc(scores, labels)
    assert 100 < len(points["x"]) <= POINTS
    assert (np.diff(points["x"]) >= 0).all()
    assert (np.diff(points["y"]) >= 0).all()
    assert (points["x"][0], points["y"][0], points["x"][-1], points["y"][-1]) == (0, 0, 1, 1)
    steps = np.diff(points["x"]) + np.diff(points["y"])
    assert steps.max() < 3 * 2 / POINTS  # even along the curve, no part of it is jumped over
    corners = {
        (float(f"{np.mean(scores[labels == 0] >= t):.6g}"), float(f"{np.mean(scores[labels == 1] >= t):.6g}"))
        for t in np.concatenate([scores, [np.inf, -np.inf]])
    }
    assert set(zip(points["x"], points["y"], strict=True)) <= corners
    assert area(points) == pytest.approx(image_metrics(scores, labels)["image_auroc"], abs=3e-3)


def test_a_perfect_curve_needs_three_points():
    assert image_roc(np.arange(9.0), np.arange(9) > 4) == {"x": [0, 0, 1], "y": [0, 1, 1]}


@pytest.mark.parametrize("decimals", [None, 1])
def test_pixel_curves_have_the_areas_of_the_metrics(decimals):
    maps, masks = maps_and_masks(decimals=decimals)
    values, curve = pixel_metrics_and_curve(maps, masks, {"aupro_0.3": 0.3}, threads=1)
    found = curves(*images(6), curve)
    assert max(len(points["x"]) for points in found.values()) <= POINTS
    assert area(found["pixel_roc"]) == pytest.approx(values["pixel_auroc"], abs=5e-3)
    assert area(found["pro"], 0.3) == pytest.approx(values["aupro_0.3"], abs=5e-3)
    assert found["pro"]["x"][-2] < 0.3 <= found["pro"]["x"][-1]  # nothing beyond is kept


def test_overlap_is_the_mean_over_regions():
    maps, masks = maps_and_masks(decimals=1)
    regions = [(1, np.s_[3:9, 4:12]), (2, np.s_[3:9, 4:12]), (3, np.s_[3:9, 4:12]), (2, np.s_[15:20, 15:20])]
    curve = pixel_metrics_and_curve(maps, masks, {}, threads=1)[1]
    for threshold, overlap in zip(curve.thresholds, curve.overlap, strict=True):
        expected = np.mean([np.mean(maps[i][box] >= threshold) for i, box in regions])
        assert overlap == pytest.approx(expected)


def test_streamed_curves_are_nearly_the_same():
    maps, masks = maps_and_masks()
    state = StreamingPixelMetrics()
    state.update(maps, masks)
    theirs = curves(*images(6), pixel_metrics_and_curve(maps, masks, {}, threads=1)[1])
    for name, points in curves(*images(6), state.curve()).items():
        np.testing.assert_allclose(points["x"], theirs[name]["x"], atol=1e-4)
        np.testing.assert_allclose(points["y"], theirs[name]["y"], atol=1e-4)


def test_what_is_undefined_has_no_curve():
    scores = np.arange(4.0)
    assert curves(scores, np.zeros(4), None) == {}
    assert set(curves(scores, np.array([0, 1, 0, 1]), None)) == {"image_roc"}
    assert pixel_metrics(*maps_and_masks())["pixel_auroc"] > 0.5  # the masks of these tests are worth something
