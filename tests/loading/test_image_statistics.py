"""Shape, brightness and sharpness against their formulae, and when an image is unlike the training images."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_bench.loading.image_statistics import ImageStatistics, image_statistics, ranges, unlike


def direct(image: np.ndarray, width: int, height: int) -> tuple[float, float, float]:
    """Pixel by pixel, in float64."""
    grey = [[sum(map(float, pixel)) / 3 for pixel in row] for row in image]
    size = len(grey)
    laplacians = [
        grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1] - 4 * grey[y][x]
        for y in range(1, size - 1)
        for x in range(1, size - 1)
    ]
    mean = sum(laplacians) / max(len(laplacians), 1)
    sharpness = sum((each - mean) ** 2 for each in laplacians) / max(len(laplacians), 1)
    return width / height, sum(map(sum, grey)) / size**2, sharpness


@pytest.mark.parametrize("size", [1, 2, 3, 9, 24])
def test_statistics_are_their_formulae(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    assert image_statistics(image, 27, 10) == pytest.approx(direct(image, 27, 10), rel=1e-5)


def test_an_even_image_is_not_sharp_and_an_edge_is() -> None:
    even, edge = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    assert image_statistics(even, 8, 8) == (1.0, 90.0, 0.0)
    assert image_statistics(edge, 8, 8).sharpness > 1000


def test_ranges_are_those_of_all_images() -> None:
    one, other = ImageStatistics(1.0, 90.0, 5.0), ImageStatistics(0.5, 120.0, 4.0)
    assert ranges([one, other]) == {"aspect_ratio": (0.5, 1.0), "mean_grey": (90.0, 120.0), "sharpness": (4.0, 5.0)}


TRAINED_ON = {"aspect_ratio": [0.9, 1.1], "mean_grey": [80, 100], "sharpness": [0, 2000]}  # lists, as JSON has them


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ((1.0, 90, 10), ""),
        ((0.9, 100, 2000), ""),
        ((0.856, 104.9, 2099), ""),  # within 5 % of a bound
        ((0.854, 90, 10), "aspect ratio 0.854, trained on 0.9-1.1"),
        ((2.7, 90, 10), "aspect ratio 2.7, trained on 0.9-1.1"),
        ((1.0, 75.9, 10), "mean grey 75.9, trained on 80-100"),
        ((1.0, 105.1, 10), "mean grey 105, trained on 80-100"),
        ((1.0, 90, 12345), "sharpness 12345, trained on 0-2000"),
        ((2.7, 20, 10), "aspect ratio 2.7, trained on 0.9-1.1; mean grey 20, trained on 80-100"),
    ],
)
def test_what_lies_outside_is_told_with_the_range(found: tuple[float, float, float], line: str) -> None:
    assert unlike(ImageStatistics(*found), TRAINED_ON) == line


def test_nothing_is_outside_where_no_range_is_known() -> None:
    assert unlike(ImageStatistics(2.7, 0, 0), {}) == ""
