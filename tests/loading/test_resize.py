"""Images and masks at the size of a method, to the bit as Pillow's rule says it, whatever Pillow's version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage
from small_images import square

from anomaly_bench.loading.resize import resize_bilinear, resize_image, resize_mask
from tests.references.resize import bilinear

EIGHT = np.ones((3, 3))
LARGEST = (700, 500, 260)  # height, width and the side that they are resized to


def pieces(mask: np.ndarray) -> int:
    return int(ndimage.label(mask, EIGHT)[1])


def plain(mask: np.ndarray, size: int) -> np.ndarray:
    return bilinear(np.where(mask, 255, 0).astype(np.uint8), size, size) > 127


def shapes(count: int) -> list[tuple[int, int, int]]:
    """Heights, widths and new sides, as many small as large ones, so that most images are long or narrow."""
    draws = np.random.default_rng(0).random((count, 3))
    drawn = [tuple(int(v) for v in row) for row in np.array(LARGEST) ** draws]
    extreme = [(1, 1, 1), (1, 1, 64), (1, 4000, 64), (4000, 1, 64), (4000, 9, 16), (2, 3000, 100), (64, 64, 1)]
    return [*extreme, *drawn[len(extreme) :]]


def test_images_of_100_shapes_are_resized_by_the_rule_to_the_bit() -> None:
    rng, seen = np.random.default_rng(1), shapes(100)
    assert sum(h > size < w for h, w, size in seen) > 15
    assert sum(h < size > w for h, w, size in seen) > 15
    assert sum(max(h, w) > 8 * min(h, w) for h, w, _ in seen) > 20
    assert sum(min(h, w) == 1 for h, w, _ in seen) > 10
    for height, width, size in seen:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        np.testing.assert_array_equal(resize_image(image, size), bilinear(image, size, size), f"{image.shape} {size}")


def test_masks_of_100_shapes_follow_the_rule_to_the_bit() -> None:
    rng, followed = np.random.default_rng(3), 0
    for height, width, size in shapes(100):
        y, x = (np.mgrid[:height, :width].T / (height, width) - rng.random(2)).T / rng.uniform(0.1, 0.6, (2, 1, 1))
        ellipse = y**2 + x**2 <= 1
        expected = plain(ellipse, size)
        if pieces(ellipse) == pieces(expected) == 1:  # not thin
            np.testing.assert_array_equal(resize_mask(ellipse, size), expected, f"{ellipse.shape} {size}")
            followed += 1
    assert followed > 50


def test_the_order_of_the_passes_decides_values_of_a_tall_image() -> None:  # Pillow 13 by itself begins with the height
    image = np.random.default_rng(2).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    other = bilinear(image.swapaxes(0, 1), 256, 256).swapaxes(0, 1)
    differences = np.abs(resize_image(image, 256).astype(int) - other)
    assert differences.max() == 1
    assert 0.2 < differences.mean() < 0.3


@pytest.mark.parametrize("seed", range(20))
def test_a_box_of_an_image_is_resized_by_the_rule_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, (3000 if seed % 2 else 300, 200)))
    size = [int(n) for n in rng.integers(1, 80, 2)]
    (left, right), (top, bottom) = (np.sort(rng.random(2) * n) for n in (width, height))
    box = tuple(map(float, (left, top, right, bottom)))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = resize_bilinear(Image.fromarray(image), *size, box)
    np.testing.assert_array_equal(np.asarray(found), bilinear(image, *size, box))


def test_images_are_resized_with_antialiasing_and_without_their_aspect() -> None:
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, 4)
    assert small.shape == (4, 4, 3)
    assert np.abs(small.astype(int) - 127).max() < 40  # without antialiasing: 0 or 255


@pytest.mark.parametrize("ends", [((0, 0), (1023, 1023)), ((1000, 17), (30, 900)), ((5, 500), (1000, 500))])
def test_a_thin_line_survives_in_one_piece(ends: tuple[tuple[int, int], tuple[int, int]]) -> None:
    image = Image.new("1", (1024, 1024))
    ImageDraw.Draw(image).line(ends, fill=1)
    mask = np.asarray(image)
    expected = np.zeros((256, 256), bool)
    for y, x in np.argwhere(mask):  # the rule a second way: 4 x 4 pixels fall into one
        expected[y // 4, x // 4] = True
    assert not plain(mask, 256).any()  # the plain rule loses it
    assert (resize_mask(mask, 256) == expected).all()
    assert pieces(resize_mask(mask, 256)) == 1


def test_a_single_pixel_survives() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[1023, 6] = True
    assert np.argwhere(resize_mask(mask, 256)).tolist() == [[255, 1]]


@pytest.mark.parametrize(
    ("shape", "size"), [((1024, 1024), 256), ((700, 900), 256), ((384, 384), 256), ((900, 500), 256), ((100, 80), 256)]
)
def test_big_blobs_follow_the_plain_rule_to_the_bit(shape: tuple[int, int], size: int) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.hypot(y - shape[0] / 2, (x - shape[1] / 3) * 1.3) < shape[1] / 5
    mask |= (abs(y - shape[0] * 0.8) < shape[0] / 12) & (x > shape[1] * 0.7)
    assert pieces(mask) == 2
    assert (resize_mask(mask, size) == plain(mask, size)).all()


def test_a_blob_is_as_it_was_beside_a_thin_line() -> None:
    blob = np.zeros((512, 512), bool)
    blob[100:200, 103:230] = True
    line = np.zeros_like(blob)
    line[400, 50:450] = True
    both = resize_mask(blob | line, 200)
    assert (both == (plain(blob, 200) | resize_mask(line, 200))).all()
    assert pieces(both) == 2


def test_the_same_size_changes_nothing() -> None:
    mask = np.random.default_rng(0).random((32, 32)) < 0.2
    assert (resize_mask(mask, 32) == mask).all()


masks = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([0.02, 0.2, 0.5]))


@given(masks, st.integers(4, 60))
def test_no_component_is_lost_or_broken(shape: tuple[int, int, int, float], size: int) -> None:
    height, width, seed, share = shape
    mask = np.random.default_rng(seed).random((height, width)) < share
    labels, count = ndimage.label(mask, EIGHT)
    whole = resize_mask(mask, size)
    assert whole.any() == mask.any()
    for i in range(1, count + 1):
        alone = resize_mask(labels == i, size)
        assert pieces(alone) == 1
        assert not (alone & ~whole).any()


def test_a_whole_mask_stays_whole() -> None:
    assert resize_mask(square() < 300, 5).all()
