"""A run whose images have pixels that no metric counts, from the files to what is said of new images."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_eval import Capsys, eval_json
from small_runs import make_images, save

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.inference.threshold import ThresholdRequest, fold_config, set_threshold
from anomaly_bench.loading.decode import read_mask
from anomaly_bench.loading.frame import FILL
from anomaly_bench.loading.resize import resize_mask
from anomaly_bench.metrics import pixel_metrics, seg_f1
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.sheet import GREY, Sheet, hatched
from anomaly_bench.runs.stored_run import IGNORE

FIXED = ["dataset=folder", "hardware=cpu", "hardware.threads=1", "resamples=0", "calibration_share=0.25"]
METHODS = {
    "brightness": ["method=brightness", "method.sigma=1", "method.image_size=16"],
    "padim_fast": ["method=padim_fast", "method.image_size=64", "method.batch_size=4"],
}
Train = Callable[..., RunFolder]
ROWS = 8  # of 32 that the region takes at the top; most defects reach into it


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """d: images of 32 x 32 pixels.  region.png: their top rows.  painted: the same images with these rows by hand."""
    monkeypatch.chdir(tmp_path)
    region = np.zeros((32, 32), np.uint8)
    region[:ROWS] = 255
    save(tmp_path / "region.png", region)
    shutil.copytree(make_images(tmp_path / "d"), tmp_path / "painted")
    for file in (tmp_path / "painted").rglob("*.png"):
        pixels = np.array(Image.open(file))
        pixels[:ROWS] = 0 if file.name.endswith("_mask.png") else FILL
        save(file, pixels)
    return tmp_path


def train(*words: str, root: str = "d", method: str = "brightness") -> RunFolder:
    places = [f"dataset.root={root}", "output_dir=out", "cache_dir=cache"]
    return run(config.compose([*FIXED, *places, *METHODS[method], *words]))


@pytest.mark.parametrize("method", METHODS)
def test_a_region_is_as_good_as_painted_over_and_cut_off(method: str, place: Path) -> None:
    folder = train("dataset.ignore_mask=region.png", method=method)
    painted = train(root="painted", method=method)
    maps, others = folder.maps, painted.maps
    assert maps is not None
    assert others is not None
    assert np.array_equal(maps, others)  # the method saw the same training and test images
    assert folder.scores == painted.scores
    below = np.s_[maps.shape[1] * ROWS // 32 :]
    files = [place / "painted/ground_truth" / r.path.removeprefix("test/") for r in folder.scores]
    masks = np.array([_mask(file.with_name(f"{file.stem}_mask.png"), maps.shape[1]) for file in files])[:, below]
    expected = pixel_metrics(maps[:, below], masks)
    assert {name: folder.metrics[name] for name in expected} == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert expected["pixel_auroc"] != painted.metrics["pixel_auroc"]
    assert [folder.metrics[k] for k in painted.metrics if k[:5] == "image"] == [
        v for k, v in painted.metrics.items() if k[:5] == "image"
    ]
    tested = folder.manifest["thresholds"]["pixel"]["test"]
    limit = folder.manifest["thresholds"]["pixel"]["threshold"]
    assert tested["seg_f1"] == seg_f1(maps[:, below], masks, limit)
    assert tested["false_alarms"] == np.count_nonzero(maps[:4, below].max((1, 2)) > limit)
    with (folder.path / "calibration.csv").open(newline="") as one, (painted.path / "calibration.csv").open() as other:
        pairs = list(zip(csv.DictReader(one), csv.DictReader(other), strict=True))
    assert all(a["score"] == b["score"] and float(a["map_max"]) <= float(b["map_max"]) for a, b in pairs)


def _mask(file: Path, side: int) -> np.ndarray:
    """The hand-made mask at the maps' size; none of a good image."""
    return resize_mask(read_mask(file, (32, 32)), side) if file.is_file() else np.zeros((side, side), bool)


def test_what_a_run_says_of_it_and_keeps(place: Path, capsys: Capsys) -> None:
    folder = train("dataset.ignore_mask=region.png")
    assert folder.manifest["ignored"] == {"value": None, "region": True, "pixels": 10 * 4 * 16, "images": 10}
    lines = folder.manifest["protocol"]
    assert "640 pixels in 10 of 10 test images are ignored: neither normal nor anomalous" in lines
    assert "a region of 64 pixels is filled in every image, new ones too, and ignored" in lines
    assert IGNORE in folder.manifest["files"]
    assert np.array_equal(read_mask(folder.path / IGNORE, (32, 32)), read_mask(place / "region.png", (32, 32)))
    (place / "region.png").unlink()  # the run needs it no more
    before = folder.metrics
    found = eval_json(capsys, folder.path)
    assert found[str(folder.path)]["metrics"] == before
    assert "the stored metrics are confirmed" in (main(["eval", str(folder.path)]), capsys.readouterr().out)[1]
    assert folder.manifest["thresholds"]["pixel"]["test"]["seg_f1"] > 0


def test_new_images_are_treated_as_its_own(place: Path) -> None:
    folder = train("dataset.ignore_mask=region.png")
    (place / "region.png").unlink()
    model, maps = load(folder.path, device="cpu"), folder.maps
    assert maps is not None
    results = list(model.predict([place / "d" / row.path for row in folder.scores]))
    assert [result.score for result in results] == [row.score for row in folder.scores]
    for result, stored in zip(results, maps, strict=True):
        assert result.map is not None
        assert np.array_equal(result.map[4:], stored[4:])
        assert (result.map[:4] == stored[4:].min()).all()
    (wrong,) = model.predict(np.zeros((16, 32, 3), np.uint8))
    assert "ignore.png has 32 x 32 pixels, array 0 32 x 16 (width x height)" in wrong.error
    rows = set_threshold(folder.path, ThresholdRequest(rate=0.5, confidence=0.5))
    figures = (maps[:4, 4:].max((1, 2)) > rows["pixel"]["threshold"]).sum()
    assert rows["pixel"]["test"]["false_alarms"] == figures
    assert fold_config(folder, {}).dataset.ignore_mask == str(folder.path / IGNORE)
    (folder.path / IGNORE).unlink()
    with pytest.raises(UserError, match=r"ignore.png: is missing"):
        load(folder.path, device="cpu")


def test_a_value_of_the_masks(place: Path, capsys: Capsys) -> None:
    plain = train()
    for file in (place / "d/ground_truth").rglob("*.png"):
        marks = np.array(Image.open(file))
        marks[16:, :4] = 128
        save(file, marks)
    folder = train("dataset.ignore_value=128", "save_heatmaps=true")
    assert folder.path != plain.path
    assert folder.manifest["ignored"] == {"value": 128, "region": False, "pixels": 6 * 8 * 2, "images": 6}
    assert (
        "96 pixels in 6 of 10 test images are ignored: neither normal nor anomalous (value 128 of a mask)"
        in (folder.manifest["protocol"])
    )
    assert plain.maps is not None
    assert np.array_equal(folder.maps, plain.maps)  # it changes nothing that a method sees
    ignored = [np.zeros((16, 16), bool) for _ in range(10)]
    for each in ignored[4:]:
        each[8:, :2] = True
    files = [place / "d/ground_truth" / r.path.removeprefix("test/") for r in folder.scores]
    cut = [_without(file.with_name(f"{file.stem}_mask.png")) for file in files]
    expected = pixel_metrics(plain.maps, cut, ignored=ignored)
    assert {name: folder.metrics[name] for name in expected} == expected
    before = folder.manifest["thresholds"]["pixel"]["test"]
    set_threshold(folder.path, ThresholdRequest())  # no mask is read
    assert folder.manifest["thresholds"]["pixel"]["test"] == before
    assert "test" not in set_threshold(folder.path, ThresholdRequest(rate=0.5, confidence=0.5))["pixel"]
    found = eval_json(capsys, folder.path)[str(folder.path)]["metrics"]
    assert found == folder.metrics
    assert main(["eval", str(folder.path), "--write-tiff", "tiffs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--maps tiffs --masks tiffs --ignore-value 128")
    words = ["--maps", "tiffs", "--masks", "tiffs", "--resamples", "0", "--ignore-value", "128"]
    (others,) = eval_json(capsys, *words).values()
    assert {name: others["metrics"][name] for name in expected} == expected


def _without(file: Path) -> np.ndarray:
    marks = np.array(Image.open(file)) if file.is_file() else np.zeros((32, 32), np.uint8)
    return resize_mask(marks == 255, 16)


def test_the_file_counts_by_content_and_nulls_change_no_identity(place: Path) -> None:
    def identity(*words: str) -> config.Identity:
        places = ["dataset.root=d", *FIXED, *METHODS["brightness"]]
        return config.identify(config.validate(config.compose([*places, *words])))

    plain = identity()
    assert identity("dataset.ignore_mask=null", "dataset.ignore_value=null") == plain
    masked = identity("dataset.ignore_mask=region.png")
    shutil.copy("region.png", "other.png")
    assert identity("dataset.ignore_mask=other.png") == identity(f"dataset.ignore_mask={place}/region.png") == masked
    save(place / "other.png", np.eye(32, dtype=np.uint8))
    named = [identity("dataset.ignore_mask=other.png"), identity("dataset.ignore_value=2")]
    assert len({each.run for each in (plain, masked, *named)}) == len({e.setting for e in (plain, masked, *named)}) == 4
    with pytest.raises(UserError, match=r"dataset.ignore_mask: no such file: nix.png"):
        identity("dataset.ignore_mask=nix.png")


def test_maps_of_another_program(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of an image is the largest value that counts, also in a good one."""
    monkeypatch.chdir(tmp_path)
    for kind, first in (("good", 9.0), ("hole", 0.0)):
        scores, mask = np.array([[first, 1.0], [2.0, 3.0]], np.float32), np.array([[7, 0], [0, 0]], np.uint8)
        if kind == "hole":
            scores[1, 1], mask[1, 1] = 5.0, 255
        (tmp_path / "maps" / kind).mkdir(parents=True)
        np.save(tmp_path / "maps" / kind / "000.npy", scores)
        save(tmp_path / "masks" / kind / "000_mask.png", mask)
    words = ["--maps", "maps", "--masks", "masks", "--resamples", "0"]
    (found,) = eval_json(capsys, *words, "--ignore-value", "7").values()
    assert found["metrics"]["image_auroc"] == found["metrics"]["pixel_auroc"] == 1
    assert main(["eval", *words]) == 2
    assert "marks a defect in an image of kind 'good'" in capsys.readouterr().err


def test_pictures_are_hatched_where_pixels_are_ignored() -> None:
    image, ignored = np.full((256, 256, 3), 200, np.uint8), np.zeros((256, 256), bool)
    ignored[:64] = True
    picture = hatched(image, ignored)
    assert (picture[64:] == 200).all()
    assert (picture[:64] == GREY).all(2).mean() == 0.25
    assert (image == 200).all()
    sheet = Sheet(256, 256, 0.0, 1.0)
    assert [panel.size for panel in sheet.panels(sheet.empty).values()] == [(256, 256)] * 4
