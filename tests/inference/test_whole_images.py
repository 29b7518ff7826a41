"""Images of any shape from the file to the map: what a run measured is what its model says of the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.contracts import Method, Record, Scores
from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.loading.anomaly_maps import read_map
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.tiles import Tiling
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.sheet import Sheet
from anomaly_bench.runs.whole_images import View, score_whole, view_of
from tests.inference.small_models import METHODS, images_of, overrides
from tests.small_runs import save

FIXED = ["dataset=folder", "hardware=cpu", "hardware.threads=1", "resamples=0", "calibration_share=0.25"]
Train = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 x 100 pixels, height x width; a spot far to the right, one in the middle."""
    root, draw = tmp_path_factory.mktemp("oblong"), np.random.default_rng(0)
    for place, count in (("train/good", 8), ("test/good", 3), ("test/spot", 3)):
        for i in range(count):
            image, mask = draw.integers(90, 130, (40, 100, 3), dtype=np.uint8), np.zeros((40, 100), np.uint8)
            if place.endswith("spot"):
                mask[12:26, (84, 44, 46)[i] : (96, 56, 58)[i]] = 255
            image[mask > 0] = 230
            save(root / place / f"{i:03}.png", image)
            if mask.any():
                save(root / "ground_truth/spot" / f"{i:03}_mask.png", mask)
    return root


@pytest.fixture
def train(oblong: Path, tmp_path: Path) -> Train:
    def start(*more: str) -> RunFolder:
        places = [f"dataset.root={oblong}", f"output_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}"]
        method = [] if any(word.startswith("method=") for word in more) else ["method=brightness", "method.sigma=1"]
        return run(config.compose([*FIXED, *places, *method, *more]))

    return start


def said(folder: RunFolder, words: str) -> bool:
    return any(words in line for line in folder.manifest["protocol"])


WAYS = {
    "squash": (["method.image_size=40", "dataset.fit=squash"], (40, 40)),
    "sides": (["method.image_size=[20,50]"], (20, 50)),
    "aspect": (["method.image_size=64", "dataset.fit=aspect"], (48, 112)),  # 2.33 : 1
    "pad": (["method.image_size=40", "dataset.fit=pad"], (40, 40)),
    "crop": (["method.image_size=40", "dataset.fit=crop"], (40, 40)),
    "tiles": (["method.image_size=20", "dataset.tiles.size=40"], (20, 50)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_says_of_a_file_what_its_run_measured(train: Train, way: str) -> None:
    more, size = WAYS[way]
    folder = train(*more)
    assert folder.maps is not None
    assert folder.maps[0].shape == size
    model = load(folder.path, "cpu")
    for row, values, result in zip(folder.scores, folder.maps, model.predict(images_of(folder)), strict=True):
        assert result.score == pytest.approx(row.score, rel=1e-6)
        np.testing.assert_allclose(result.map, values, rtol=1e-5, atol=1e-5)
        at_source = result.map_at_source()
        assert at_source.shape == (40, 100)
        assert result.image is not None
        assert result.image.shape == (*size, 3)
        if row.path == "test/spot/001.png":  # in the middle, which each way shows
            y, x = np.unravel_index(at_source.argmax(), at_source.shape)
            assert 11 <= y <= 27
            assert 42 <= x <= 58
    assert folder.metrics["pixel_auroc"] > 0.97


def test_what_a_crop_does_not_show_has_the_lowest_value(train: Train) -> None:
    folder = train(*WAYS["crop"][0])
    (result,) = load(folder.path, "cpu").predict(images_of(folder)[0])
    assert result.map is not None
    whole = result.map_at_source()
    assert (whole[:, :30] == result.map.min()).all()
    assert (whole[:, 70:] == result.map.min()).all()
    assert whole[:, 30:70].std() > 0


def test_the_protocol_says_how_images_come_to_the_method(train: Train) -> None:
    squashed, apart = train(*WAYS["squash"][0]), train(*WAYS["tiles"][0])
    assert said(squashed, "images resized to 40 x 40 (height x width, bilinear)")
    assert said(squashed, "images of aspect ratio 2.50 were squashed to 1.00 (width / height); dataset.fit=aspect")
    assert said(apart, "each image is seen as 3 tiles of 20 x 20")
    for way in ("aspect", "pad", "crop"):
        assert not said(train(*WAYS[way][0]), "squashed")
    assert squashed.manifest["setting"] != apart.manifest["setting"]


@pytest.mark.parametrize("way", ["pad", "tiles"])
def test_a_measurement_of_a_run_is_confirmed(train: Train, way: str, bench: Callable[..., object]) -> None:
    folder = train(*WAYS[way][0])
    done = bench("eval", str(folder.path))
    assert "the stored metrics are confirmed" in done.stdout  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["squash", "pad", "crop"])
def test_maps_and_heat_maps_at_the_size_of_the_files(train: Train, oblong: Path, way: str, tmp_path: Path) -> None:
    folder = train(*WAYS[way][0], "save_heatmaps=source")
    pictures = {p.name.partition("_")[2]: p for p in (folder.path / "heatmaps").iterdir()}
    with Image.open(pictures["spot_001.png"]) as picture:
        shown = np.asarray(Sheet.panels(picture)["image"])
    source = np.asarray(Image.open(oblong / "test/spot/001.png"))
    assert np.array_equal(shown[::2, ::2], source)  # small pictures are shown in larger pixels
    assert main(["eval", str(folder.path), "--write-tiff", str(tmp_path / "maps"), "--source-size"]) == 0
    written = next((tmp_path / "maps").iterdir())
    (result,) = load(folder.path, "cpu").predict(oblong / "test/spot/001.png")
    np.testing.assert_allclose(read_map(written / "test/spot/001.tiff"), result.map_at_source(), rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.asarray(Image.open(written / "test/spot/001.png")), source)
    mask, known = (written / "ground_truth/spot/001_mask.png"), oblong / "ground_truth/spot/001_mask.png"
    assert np.array_equal(np.asarray(Image.open(mask)), np.asarray(Image.open(known)))
    words = [str(folder.path), str(oblong / "test/spot"), "--out", str(tmp_path / "out"), "--maps", "tiff"]
    assert main(["predict", *words, "--source-size"]) == 0
    assert np.array_equal(read_map(tmp_path / "out/maps/001.png.tiff"), result.map_at_source())


RECTANGLES = {  # height and width that each method's strides allow
    "rd": (32, 64), "us": (16, 24), "csflow": (64, 128), "glf": (243, 249), "stfpm": (32, 48), "simplenet": (32, 48),
    "padim": (32, 48), "patchcore": (32, 48), "us_shallow": (32, 48),
}  # fmt: skip


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in ("rd", "csflow") else pytest.mark.slow) for name in METHODS]
)
def test_every_method_takes_rectangles(method: str, tmp_path: Path, weights: Path) -> None:
    height, width = RECTANGLES[method]
    folder = run(config.compose(overrides(method, tmp_path, weights, f"method.image_size=[{height},{width}]")))
    assert folder.maps is not None
    assert folder.maps[0].shape == (height, width)
    results = list(load(folder.path, "cpu").predict(images_of(folder)))
    for row, values, result in zip(folder.scores, folder.maps, results, strict=True):
        assert result.score == pytest.approx(row.score, rel=1e-5)
        np.testing.assert_allclose(result.map, values, rtol=1e-3, atol=1e-5)


class Peaks(Method):
    """The grey value is the map, its largest one the score."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size, self.batch_size = size, 3

    def score(self, images: torch.Tensor) -> Scores:
        grey = images.mean(1)
        part = Scores(grey.flatten(1).amax(1), grey)
        return part._replace(components={"half": Scores(part.image / 2, grey / 2)})


def test_tiles_of_a_method_without_border_effects_change_nothing() -> None:
    view, method = View(Frame((30, 70)), Tiling((16, 16), 0.3)), Peaks((16, 16))
    images = torch.rand(4, 3, 30, 70)
    found, whole = score_whole(view, method.score, images, [(30, 70)] * 4, 3), method.score(images)
    assert found.components
    assert whole.components
    for one, other in ((found, whole), (found.components["half"], whole.components["half"])):
        torch.testing.assert_close(one.image, other.image, rtol=0, atol=0)
        assert one.map is not None
        assert other.map is not None
        torch.testing.assert_close(one.map, other.map, rtol=2e-6, atol=0)


def records(*sizes: tuple[int, int]) -> list[Record]:
    return [Record(f"{i}.png", "good", np.zeros((*size, 3), np.uint8)) for i, size in enumerate(sizes)]


def images(**values: object) -> config.Images:
    return config.Images.model_validate(values)


def test_tiles_must_fit_into_the_images() -> None:
    with pytest.raises(UserError, match=r"tiles of 50 x 50 pixels given, the training images have 40 x 100"):
        view_of(images(tiles={"size": 50}), Peaks((16, 16)), records((40, 100)))
    with pytest.raises(UserError, match=r"pad given together with dataset\.tiles\.size"):
        view_of(images(fit="pad", tiles={"size": 20}), Peaks((16, 16)), records((40, 100)))


def test_height_and_width_that_are_given_stay_as_they_are() -> None:
    assert view_of(images(fit="aspect"), Peaks((16, 64)), records((40, 100))).seen == (16, 64)


def test_a_method_of_near_squares_squashes_where_the_aspect_is_asked_for() -> None:
    method = Peaks((64, 64))
    assert view_of(images(fit="aspect"), method, records((40, 100), (40, 102), (40, 90))).seen == (48, 112)
    method.size_step = 0
    view = view_of(images(fit="aspect"), method, records((40, 100)))
    assert view.seen == (64, 64)
    assert "squashed" in view.distortion
