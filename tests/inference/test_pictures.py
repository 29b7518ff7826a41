"""Pictures of a result: a line around what is above the threshold, and the map beside it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anomaly_bench.inference.pictures import GAP, overlay, result_png
from anomaly_bench.runs.sheet import CYAN

IMAGE = np.full((20, 24, 3), 100, np.uint8)
MAP = np.zeros((20, 24), np.float32)
MAP[6:12, 8:15] = 2.0


def test_the_line_lies_around_what_is_above_the_threshold() -> None:
    changed = (overlay(IMAGE, MAP, 1.0) != IMAGE).any(2)
    grown = ndimage.binary_dilation(MAP > 1, np.ones((3, 3)), iterations=2)
    assert np.array_equal(changed, grown & (MAP <= 1))
    assert (overlay(IMAGE, MAP, 1.0)[5, 8:15] == CYAN).all()
    assert np.array_equal(overlay(IMAGE, MAP, 2.0), IMAGE)  # nothing is above it
    assert (IMAGE == 100).all()


def panels(threshold: float | None, values: np.ndarray | None = MAP) -> tuple[np.ndarray, np.ndarray]:
    picture = np.asarray(Image.open(io.BytesIO(result_png(IMAGE, values, threshold))))
    return picture[:, :24], picture[:, 24 + GAP :]


def test_image_and_map_side_by_side() -> None:
    image, heat = panels(None)
    assert np.array_equal(image, IMAGE)
    assert heat.shape == IMAGE.shape
    assert heat[8, 10].sum() > heat[0, 0].sum()
    assert np.array_equal(panels(1.0)[0], overlay(IMAGE, MAP, 1.0))
    assert panels(None, None)[1].size == 0


@pytest.mark.parametrize("threshold", [4.0, 40.0])
def test_a_map_below_its_threshold_is_dark(threshold: float) -> None:
    bright, dark = panels(1.0)[1], panels(threshold)[1]
    assert dark[8, 10].sum() < bright[8, 10].sum()
