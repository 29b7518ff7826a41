"""16-bit grey at full depth, from the file to a run's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from references import resize as reference
from small_images import grey, save, square

from anomaly_bench import config
from anomaly_bench.contracts import Record
from anomaly_bench.errors import Mistakes
from anomaly_bench.inference.load import load
from anomaly_bench.loading.decode import read_image, to_8_bits
from anomaly_bench.loading.frame import FILL, Frame
from anomaly_bench.loading.ignore import Ignore
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_files import has_16_bits
from anomaly_bench.loading.resize import resize_image
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run

DARK = np.random.default_rng(0).integers(0, 4096, (24, 36)).astype(np.uint16)  # 12 bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_white_says_which_value_is_the_brightest(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 2048, 4095, 4096, 65535]], np.uint16)
    file = save(tmp_path / f"a.{suffix}", values)
    assert has_16_bits(file)
    expected = [0, 16, 32776, 65535, 65535, 65535]  # v * 65535 / 4095 to nearest, 4095 at most
    assert read_image(file, white=4095)[0].tolist() == [[v] * 3 for v in expected]
    assert np.array_equal(read_image(file, white=65535)[..., 0], values)
    assert read_image(file)[0, :, 0].tolist() == [0, 0, 8, 16, 16, 255]
    assert np.array_equal(to_8_bits(read_image(file, white=65535)), read_image(file))


def test_an_image_of_8_bits_is_the_same_whatever_white_is(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", grey(77))
    assert not has_16_bits(file)
    assert read_image(file, white=1000).dtype == np.uint8
    assert np.array_equal(read_image(file, white=1000), read_image(file))


@pytest.mark.parametrize("size", [(24, 36), (8, 9), (37, 20)])
def test_resizing_rounds_once(size: tuple[int, int]) -> None:
    deep = np.repeat(DARK[:, :, None], 3, 2)
    found = resize_image(deep, size)
    assert found.dtype == np.uint16
    wide = (reference.weights(36, np.float32(0), np.float32(36), size[1]) / reference.ONE) @ DARK.T.astype(float)
    exact = (reference.weights(24, np.float32(0), np.float32(24), size[0]) / reference.ONE) @ wide.T
    assert np.abs(found[..., 0] - exact).max() < 0.51


def test_padding_has_the_colour_that_it_has_with_8_bits() -> None:
    framed = Frame((36, 36), "pad").image(np.repeat(DARK[:, :, None], 3, 2))
    assert framed[0, 0].tolist() == [257 * each for each in FILL]


def test_an_ignored_region_too(tmp_path: Path) -> None:
    region = np.zeros((24, 36), np.uint8)
    region[:12] = 255
    frame = Frame((12, 18), ignore=Ignore.of(None, save(tmp_path / "region.png", region)))
    assert frame.image(np.repeat(DARK[:, :, None], 3, 2))[0, 0].tolist() == [257 * each for each in FILL]


def test_values_that_8_bits_would_make_equal_stay_apart(tmp_path: Path) -> None:
    """Beside an image of 8 bits, whose tensor is the one it has alone, to the bit."""
    steps = np.full((8, 8), 2000, np.uint16)
    steps[:, 4:] = 2001
    plain = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    deep = Record("test/bad/a.png", "bad", save(tmp_path / "a.png", steps), save(tmp_path / "m.png", square()))
    flat = Record("test/good/b.png", "good", save(tmp_path / "b.png", plain))
    images = ImageSet([deep, flat], 8, tmp_path / "cache")
    sample = images[0]
    assert sample["image"][0, 0].unique().tolist() == pytest.approx([2000 / 65535, 2001 / 65535])
    assert np.array_equal(sample["mask"].numpy(), square() > 0)
    assert images.picture(0).dtype == np.uint8
    (alone,) = ImageSet([flat], 8, tmp_path / "cache")
    assert images[1]["image"].equal(alone["image"])


@pytest.fixture
def twelve_bits(tmp_path: Path) -> Path:
    """A folder of noise around 2000, and defects a little brighter than that."""
    draw = np.random.default_rng(0)
    for place, count in (("train/good", 6), ("test/good", 3), ("test/spot", 3)):
        for i in range(count):
            image, mask = draw.normal(2000, 4, (32, 32)), np.zeros((32, 32), np.uint8)
            if place.endswith("spot"):
                mask[10:20, 6 + i : 16 + i] = 255
                save(tmp_path / "own/ground_truth/spot" / f"{i}_mask.png", mask)
            save(tmp_path / "own" / place / f"{i}.png", (image + 9 * (mask > 0)).round().astype(np.uint16))
    return tmp_path / "own"


def trained(root: Path, *more: str) -> RunFolder:
    places = [f"dataset.root={root}", f"output_dir={root.parent / 'out'}", f"cache_dir={root.parent / 'cache'}"]
    fixed = ["method=brightness", "method.image_size=32", "method.sigma=1", "dataset=folder", "hardware=cpu"]
    return run(config.compose([*fixed, "hardware.threads=1", "resamples=0", *places, *more]))


def test_a_run_sees_defects_that_8_bits_do_not_show(twelve_bits: Path) -> None:
    folder = trained(twelve_bits)
    assert folder.metrics is not None
    assert folder.metrics["pixel_auroc"] > 0.95
    assert folder.metrics["image_auroc"] == 1
    assert folder.manifest["frame"]["white"] == 65535
    said = "\n".join(folder.manifest["protocol"])
    assert "65535 is white: they are seen dark; dataset.white=2047 takes all of it" in said
    for row, result in zip(folder.scores, load(folder.path).predict(twelve_bits / "test"), strict=True):
        assert result.score == pytest.approx(row.score, rel=1e-6)
    assert all(len(np.unique(read_image(file))) == 1 for file in (twelve_bits / "test/spot").glob("*.png"))


def test_white_is_part_of_a_run_and_its_model(twelve_bits: Path) -> None:
    plain, bright = trained(twelve_bits), trained(twelve_bits, "dataset.white=4095")
    assert plain.path != bright.path
    assert "seen dark" not in "\n".join(bright.manifest["protocol"])
    assert "4095 is white" in "\n".join(bright.manifest["protocol"])
    cut = trained(twelve_bits, "dataset.white=1000")
    assert "1000 is white: they are seen cut off; dataset.white=2047 takes all of it" in "\n".join(
        cut.manifest["protocol"]
    )
    (first, *_) = load(bright.path).predict(twelve_bits / "test")
    assert first.image is not None
    assert first.image.mean() == pytest.approx(2000 / 4095 * 255, abs=1)


def test_a_run_of_an_earlier_version_sees_8_bits(twelve_bits: Path) -> None:
    folder = trained(twelve_bits)
    frame = {key: value for key, value in folder.manifest["frame"].items() if key != "white"}
    stored = Frame.stored({"frame": frame}, (32, 32))
    assert stored.read(next((twelve_bits / "train/good").iterdir())).dtype == np.uint8


@pytest.mark.parametrize("white", ["0", "65536", "bright", "null"])
def test_a_white_that_there_is_not(white: str) -> None:
    with pytest.raises(Mistakes, match=r"dataset\.white"):
        config.validate(config.compose(["method=brightness", "dataset=demo/brick", f"dataset.white={white}"]))
