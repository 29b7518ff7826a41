from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.loading.frame import FILL, FITS, Frame, same_pixels
from anomaly_bench.loading.resize import resize_image, resize_mask


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_square_that_is_squashed_keeps_its_old_key() -> None:
    """Caches of earlier versions stay valid, and no two frames share one."""
    assert Frame.of(64).key == 64
    others = [Frame((64, 64), fit).key for fit in FITS[1:]] + [Frame((64, 32)).key, Frame((32, 64)).key]
    assert len({str(key) for key in [64, *others]}) == len(others) + 1


def test_squash_is_the_resizing_of_the_papers_whatever_the_shape() -> None:
    image = picture(30, 70)
    assert np.array_equal(Frame((16, 40)).image(image), resize_image(image, (16, 40)))
    assert resize_image(image, (16, 40)).shape == (16, 40, 3)
    mask = np.zeros((30, 70), bool)
    mask[3, 5:60] = True  # a scratch one pixel high
    assert resize_mask(mask, (10, 40)).shape == (10, 40)
    assert resize_mask(mask, (10, 40)).any()


@pytest.mark.parametrize(("shape", "box"), [((40, 100), (10, 30, 0, 50)), ((100, 40), (0, 40, 17, 33))])
def test_pad_keeps_the_aspect_ratio_and_fills_the_rest(shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """40 x 100 into 40 x 50: halved, 20 x 50, from row 10 on.  100 x 40: by 0.4, 40 x 16, from column 17 on."""
    frame, image = Frame((40, 50), "pad"), picture(*shape)
    top, bottom, left, right = box
    found = frame.image(image)
    assert found.shape == (40, 50, 3)
    inner = np.asarray(Image.fromarray(image).resize((right - left, bottom - top), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(found[top:bottom, left:right] - inner).max() <= 1  # two axes in one call round once
    outside = np.ones((40, 50), bool)
    outside[top:bottom, left:right] = False
    assert (found[outside] == FILL).all()
    shown = frame.picture(found, shape)
    assert shown.shape == (40, 50, 3)
    assert np.array_equal(shown, resize_image(found[top:bottom, left:right], (40, 50)))
    assert np.array_equal(frame.mask(image[..., 0] > 127), resize_mask(image[..., 0] > 127, (40, 50)))


def test_crop_takes_the_largest_central_part_of_image_and_mask() -> None:
    frame, image = Frame((20, 20), "crop"), picture(40, 100)
    assert np.array_equal(frame.image(image), resize_image(image[:, 30:70], (20, 20)))
    mask = np.zeros((40, 100), bool)
    mask[10:20, 40:50] = True
    mask[:, :20] = True  # not seen
    assert np.array_equal(frame.mask(mask), resize_mask(mask[:, 30:70], (20, 20)))
    assert frame.taken((40, 100)) == (slice(0, 40), slice(30, 70))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(7, 900), (900, 7), (1, 1), (13, 17)])
def test_odd_images_come_to_the_size(fit: str, shape: tuple[int, int]) -> None:
    frame = Frame((24, 40), fit)  # type: ignore[arg-type]
    found = frame.image(picture(*shape))
    assert found.shape == (24, 40, 3)
    assert frame.mask(np.ones(shape, bool)).all()
    rows, columns = frame.filled(shape)
    assert 0 <= rows.start < rows.stop <= 24
    assert 0 <= columns.start < columns.stop <= 40


@pytest.mark.parametrize("aspect", [0.2, 0.7, 1.0, 1.9, 2.48, 5.0])
@pytest.mark.parametrize("step", [16, 32, 64])
def test_a_size_of_another_aspect_ratio_has_as_many_pixels(aspect: float, step: int) -> None:
    height, width = same_pixels(256, aspect, step)
    assert height % step == width % step == 0

    def error(h: int, w: int) -> float:
        return abs(math.log(h * w / 256**2)) + 2 * abs(math.log(w / h / aspect))

    best = min(error(h, w) for h in range(step, 1200, step) for w in range(step, 1200, step))
    assert error(height, width) <= best + 0.25  # only the four sizes around the exact one are looked at
    if aspect == 1:
        assert (height, width) == (256, 256)
