"""The patches that a teacher is trained on: where they are cut, how p, p+ and p- differ, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.natural_patches import Crops, Triplets, natural_images, zoomed_crop
from tests.nets.small_teachers import BLOCK
from tests.references.resize import bilinear

P = 17


def triplets_of(files: list[Path], length: int, **changes: Any) -> Triplets:
    return Triplets(files, P, length, DistillationConfig(**{**BLOCK, **changes}))


def save(folder: Path, *arrays: np.ndarray) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array.astype(np.uint8)).save(file)
    return files


def blobs(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """A coloured image without sharp edges."""
    few = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


def flat(*colour: int) -> np.ndarray:
    return np.full((30, 40, 3), colour)


def test_natural_images(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/1.JPEG", "b/2.png", "a.WebP", "b/notes.txt", "z.jpg"):
        (tmp_path / name).touch()
    found = natural_images(tmp_path)
    assert [f.relative_to(tmp_path).as_posix() for f in found] == ["a.WebP", "b/2.png", "b/c/1.JPEG", "z.jpg"]
    for folder, count in ((tmp_path / "b" / "c", 1), (tmp_path / "none", 0), (tmp_path / "z.jpg", 0)):
        with pytest.raises(
            UserError,
            match=rf"^method.teacher.images: {count} images in .*natural images is needed \(method.teacher.images=DIR",
        ):
            natural_images(folder)


def test_shapes_and_ranges(tmp_path: Path) -> None:
    triplets = triplets_of(save(tmp_path, *map(blobs, range(3))), 12)
    assert len(triplets) == 12
    for i in range(12):
        triplet = triplets[i]
        assert [(t.shape, t.dtype) for t in triplet] == 3 * [((3, P, P), torch.float32)]
        assert all(t.min() >= 0 and t.max() <= 1 for t in (triplet[0], triplet[2]))
        assert -0.6 < triplet[1].min() < triplet[1].max() < 1.6
        assert triplet[0].std() > 0.01


def test_the_positive_is_like_the_patch_and_the_negative_is_not(tmp_path: Path) -> None:
    triplets = triplets_of(save(tmp_path, *map(blobs, range(6))), 60)
    torch.manual_seed(0)
    drawn = [np.corrcoef(np.stack([t.flatten() for t in triplets[i]]))[0, 1:] for i in range(60)]
    positive, negative = np.mean(drawn, axis=0)
    assert positive > 0.6
    assert abs(negative) < 0.3


def test_the_positive_is_a_near_shift(tmp_path: Path) -> None:
    """Red says where a pixel lies from left to right, green from top to bottom."""
    y, x = np.mgrid[:256, :512]
    ramp = np.stack([x / 2, y, 0 * x], 2)
    triplets = triplets_of(save(tmp_path, ramp, ramp), 80, noise=0.0, grey=0.0)
    torch.manual_seed(0)
    sides, shifts, far = [], [], []
    for i in range(80):
        red, green = zip(*((t[0], t[1]) for t in triplets[i]), strict=True)
        side = 256 / 255 * (P - 1) / float((red[0][:, -1] - red[0][:, 0]).mean())
        sides.append(side)
        shifts += [float(c[1].mean() - c[0].mean()) * side for c in (red, green)]
        far.append(float(red[2].mean() - red[0].mean()) * side)
    assert 0.9 * 4 * P < min(sides) < 6 * P
    assert 13 * P < max(sides) < 1.15 * 16 * P
    reach = (P - 1) / 4
    assert max(map(abs, shifts)) < 1.15 * reach + 0.5
    assert min(shifts) < -0.7 * reach
    assert max(shifts) > 0.7 * reach
    assert len({round(s) for s in shifts}) == 2 * reach + 1
    assert np.median(np.abs(far)) > 2 * reach


def test_the_negative_shows_another_image_and_noise_has_the_stated_size(tmp_path: Path) -> None:
    triplets = triplets_of(save(tmp_path, flat(200, 100, 50), flat(20, 120, 220)), 400)
    torch.manual_seed(0)
    drawn = [triplets[i] for i in range(400)]
    grey = [all(bool((t[0] == t[1]).all() and (t[1] == t[2]).all()) for t in triplet) for triplet in drawn]
    some = [any(bool((t[0] == t[1]).all()) for t in triplet) for triplet in drawn]
    assert grey == some  # a triplet is grey as a whole
    assert 0.06 < np.mean(grey) < 0.14
    coloured = [triplet for triplet, without in zip(drawn, grey, strict=True) if not without]
    assert {float(t[0][0].mean() - t[2][0].mean()) > 0 for t in coloured} == {True, False}
    for t in coloured:
        colours = sorted(tuple((255 * x[:, 0, 0]).round().int().tolist()) for x in (t[0], t[2]))
        assert colours == [(20, 120, 220), (200, 100, 50)]
    noise = torch.stack([t[1] - t[0] for t in coloured])
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(noise.mean())) < 0.001


def test_drawn_from_torchs_random_state(tmp_path: Path) -> None:
    triplets = triplets_of(save(tmp_path, *map(blobs, range(4))), 3)

    def draw(seed: int, order: list[int]) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([t for i in order for t in triplets[i]])

    assert torch.equal(draw(1, [0, 1, 2]), draw(1, [2, 0, 1]))
    assert not torch.equal(draw(1, [0]), draw(2, [0]))


def test_a_training_process_can_be_sent_the_data(tmp_path: Path) -> None:
    triplets = triplets_of(save(tmp_path, *map(blobs, range(4))), 3)
    draws = []
    for t in (triplets, pickle.loads(pickle.dumps(triplets))):
        torch.manual_seed(1)
        draws.append(torch.stack(t[0]))
    assert torch.equal(*draws)
    assert len(pickle.loads(pickle.dumps(triplets))) == 3


@pytest.mark.parametrize("side", [4 * P, 9 * P, 16 * P])
def test_cut_is_a_zoom_then_a_crop(side: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    whole = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
    for x, y in ((0, 0), (side - P, side - P), (side // 3, side // 2), (7, side - P)):
        patch = zoomed_crop(image, side, P, x, y)
        assert patch.shape == (3, P, P)
        assert patch.dtype == np.float32
        inside = patch[:, 1:-1, 1:-1]
        np.testing.assert_allclose(inside, whole[:, y + 1 : y + P - 1, x + 1 : x + P - 1], atol=2.01 / 255)


def test_a_patch_of_a_tall_image_is_the_same_in_every_version_of_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 90, 3), dtype=np.uint8)
    w, h = 90 / (5 * P), 300 / (5 * P)
    expected = bilinear(image, P, P, (7 * w, 40 * h, (7 + P) * w, (40 + P) * h))
    found = zoomed_crop(Image.fromarray(image), 5 * P, P, 7, 40)
    np.testing.assert_array_equal(found, expected.astype(np.float32).transpose(2, 0, 1) / 255)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    files = save(tmp_path, blobs(0), blobs(1))
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"\d\.png: cannot be read as an image"):
        triplets_of(files, 1)[0]


def test_numbers_of_the_triplets(tmp_path: Path) -> None:
    files = save(tmp_path, flat(200, 100, 50), flat(20, 120, 220))
    torch.manual_seed(0)
    loud = triplets_of(files, 9, noise=0.3, grey=0.0, shift=0.0, zoom=(1, 1))
    drawn = [loud[i] for i in range(9)]
    assert float(torch.stack([t[1] - t[0] for t in drawn]).std()) == pytest.approx(0.3, rel=0.05)
    assert not any(torch.equal(t[0][0], t[0][1]) for t in drawn)
    assert all(torch.equal(t[0], t[0][:, :1, :1].expand(3, P, P)) for t in drawn)  # the whole image, zoomed to a patch
    y, x = np.mgrid[:64, :64]
    ramp = save(tmp_path, np.stack([4 * x, 4 * y, 0 * x], 2), np.stack([4 * x, 4 * y, 0 * x], 2))
    still = triplets_of(ramp, 5, noise=0.0, shift=0.0)
    assert all(torch.equal(a, b) for a, b, _ in (still[i] for i in range(5)))


def test_crops_of_images(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :512]
    ramp = np.stack([x / 2, y, 0 * x], 2)
    config = DistillationConfig(**{**BLOCK, "target": "image", "crop_size": 48, "zoom": (2, 6), "grey": 0.25})
    crops = Crops(save(tmp_path, ramp, ramp), P, 200, config)
    torch.manual_seed(0)
    drawn = torch.stack([crops[i] for i in range(200)])
    assert drawn.shape == (200, 3, 48, 48)
    grey = (drawn[:, 0] == drawn[:, 1]).all((1, 2))
    assert 0.15 < float(grey.float().mean()) < 0.35
    coloured = drawn[~grey]
    sides = 256 / 255 * 47 / (coloured[:, 0, :, -1] - coloured[:, 0, :, 0]).mean(1)
    assert 47 < sides.min() < 52  # 2 p is less than the crop, which is the whole image then
    assert 5.5 * P < sides.max() < 6.3 * P
    copied = pickle.loads(pickle.dumps(crops))
    torch.manual_seed(0)
    assert torch.equal(copied[0], drawn[0])
