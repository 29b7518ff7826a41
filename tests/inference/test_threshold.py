"""`bench threshold`: from which images, for which promise, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from anomaly_bench.commands.main import main
from anomaly_bench.runs.calibration import read_rows
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.stored_run import CALIBRATION, FOLDS, NORMALS
from tests.inference.conftest import CONF
from tests.inference.small_models import images_of
from tests.references.calibration import rank
from tests.small_runs import QUICK, Noted, Train, save

Threshold = Callable[..., str]
SHARE = "calibration_share=0.5"  # six of twelve


@pytest.fixture
def threshold(capsys: pytest.CaptureFixture[str]) -> Threshold:
    """threshold(run, "--per", "pixel", code=0): what the command says, on standard error if it fails."""

    def call(folder: RunFolder | Path, *words: str, code: int = 0) -> str:
        capsys.readouterr()
        place = folder.path if isinstance(folder, RunFolder) else folder
        assert main(["threshold", str(place), "--config-dir", str(CONF), *words]) == code
        said = capsys.readouterr()
        if code:
            assert said.out == ""
            assert [line for line in said.err.splitlines() if line.startswith("bench: ")] == said.err.splitlines()[-1:]
        return said.err if code else said.out

    return call


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """Nine normal images that no run has seen."""
    draw = np.random.default_rng(9)
    for i in range(9):
        save(tmp_path / f"normals/{i % 2}/{i}.png", draw.integers(90, 130, (32, 32, 3), dtype=np.uint8))
    return tmp_path / "normals"


def test_the_images_that_were_held_out(train: Train, threshold: Threshold) -> None:
    folder = train(*QUICK, SHARE)
    before, scores = folder.manifest, sorted(row.score for row in read_rows(folder, CALIBRATION))
    said = threshold(folder)
    assert folder.manifest == before  # the default is what the run has stored
    assert (
        f"images' scores: above {scores[-1]:.6g} is anomalous: 5 % at 95 % needs 59 normal images, you have 6" in said
    )
    assert said.count("calibrated on normal images: held out") == 2
    threshold(folder, "--false-alarms", "0.5", "--confidence", "0.6", "--per", "image")
    entry = folder.manifest["thresholds"]["image"]
    r = rank(6, 0.5, 0.6)
    assert r > 0
    assert (entry["r"], entry["threshold"]) == (r, scores[-1 - r])
    assert folder.manifest["thresholds"]["pixel"] == before["thresholds"]["pixel"]
    assert folder.damage() == []


def test_json_is_all_that_stands_on_standard_output(train: Train, threshold: Threshold) -> None:
    folder = train(*QUICK, SHARE)
    found = json.loads(threshold(folder, "--json", "--per", "pixel"))
    assert found == {"pixel": folder.manifest["thresholds"]["pixel"]}


def test_a_folder_of_normal_images(train: Train, threshold: Threshold, normals: Path) -> None:
    folder = train(*QUICK, SHARE)
    said = threshold(folder, "--normals", str(normals))
    rows = read_rows(folder, NORMALS)
    assert [row.path for row in rows] == [str(path) for path in sorted(normals.rglob("*.png"))]
    assert f"calibrated on normal images: {normals}" in said
    entry = folder.manifest["thresholds"]["image"]
    assert (entry["n"], entry["file"], entry["threshold"]) == (9, NORMALS, max(row.score for row in rows))
    assert folder.damage() == []
    threshold(folder)  # again what the run itself held out
    assert folder.manifest["thresholds"]["image"]["file"] == CALIBRATION
    threshold(folder, "--normals", str(normals), "--per", "pixel")
    files = {level: entry["file"] for level, entry in folder.manifest["thresholds"].items()}
    assert files == {"image": CALIBRATION, "pixel": NORMALS}


def test_they_are_kept_for_later_calls_and_made_anew(
    train: Train, trained: Train, threshold: Threshold, normals: Path
) -> None:
    folder = trained()
    threshold(folder, "--normals", str(normals))
    threshold(folder, "--false-alarms", "0.3")
    assert folder.manifest["thresholds"]["image"]["rate"] == 0.3
    assert folder.manifest["thresholds"]["image"]["file"] == NORMALS
    with (folder.path / NORMALS).open("a") as file:
        file.write("x.png,other,99.0,99.0\n")
    said = threshold(folder, code=2)
    assert NORMALS in said
    assert f"bench threshold {folder.path} --normals DIR makes it anew" in said
    threshold(folder, "--normals", str(normals), "--per", "image")
    assert folder.damage() == []
    assert list(folder.manifest["thresholds"]) == ["image"]  # of the pixels there was one of the damaged file
    assert len(read_rows(folder, NORMALS)) == 9


def copy_of_test_image(folder: RunFolder, normals: Path) -> None:
    shutil.copy(images_of(folder)[0], normals / "seen.png")


def copy_of_training_image(folder: RunFolder, normals: Path) -> None:
    shutil.copy(Path(folder.manifest["place"]) / "train/good/004.png", normals / "seen.png")


def named_in_latin_1(folder: RunFolder, normals: Path) -> None:
    shutil.copy(normals / "0/0.png", os.fsencode(normals) + b"/gr\xfcn.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (copy_of_test_image, "1 of 10 images are already images of the run, or there twice"),
        (copy_of_training_image, "seen.png is train/train/good/004.png"),
        (lambda _, n: shutil.copy(n / "0/0.png", n / "z.png"), "there twice, by content (first: "),
        (lambda _, n: (n / "z.png").write_text("no image"), "z.png: cannot be read as an image"),
        (lambda _, n: os.mkfifo(n / "z.png"), "z.png: is no file"),
        (lambda _, n: (n / "z.png").symlink_to(n / "nowhere"), "z.png: no such file"),
        (lambda _, n: shutil.rmtree(n), "no such folder"),
        (lambda _, n: [shutil.rmtree(n / str(i)) for i in range(2)], "holds no image"),
        (named_in_latin_1, "bytes that are not UTF-8"),
    ],
)
def test_normal_images_that_cannot_be_used(
    trained: Train, threshold: Threshold, normals: Path, spoil: Callable[[RunFolder, Path], object], said: str
) -> None:
    folder = trained()
    before = folder.manifest
    spoil(folder, normals)
    assert said in threshold(folder, "--normals", str(normals), code=2)
    assert folder.manifest == before
    assert not (folder.path / NORMALS).exists()


def test_a_run_without_calibration_images_is_told_how_to_get_them(trained: Train, threshold: Threshold) -> None:
    said = threshold(trained(), code=2)
    for way in ("calibration_share=0.1", "validation/good", "--normals DIR", "--folds 5"):
        assert way in said


def test_folds_are_trained_once_and_are_no_results(
    train: Train, trained: Train, threshold: Threshold, notes: Noted, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained()
    began = len(notes("begin"))
    said = threshold(folder, "--folds", "3")
    assert len(notes("begin")) == began + 3
    assert "without a guarantee (12 normal images, 3 folds)" in said
    rows = read_rows(folder, FOLDS)
    assert sorted(row.path for row in rows) == [f"train/good/{i:03}.png" for i in range(12)]
    entry = folder.manifest["thresholds"]["image"]
    assert entry["promised"] == pytest.approx(min(1, 2 * (1 - 0.05 ** (1 / 12))))
    folds = list(find(folder.path / "folds"))
    assert [fold.manifest["images"]["calibration"] for fold in folds] == [4, 4, 4]
    assert all(fold.maps is None for fold in folds)
    for fold in folds:  # each image was scored by the training that had not seen it
        assert {(row.path, row.score) for row in read_rows(fold, CALIBRATION)} <= {
            (row.path, row.score) for row in rows
        }
    threshold(folder, "--folds", "3", "--false-alarms", "0.4")
    assert len(notes("begin")) == began + 3
    assert folder.damage() == []
    capsys.readouterr()
    assert main(["list", "runs"]) == 0
    assert capsys.readouterr().out.count("toy") == 1
    assert main(["report"]) == 0
    assert "1 finished runs; left out: none" in capsys.readouterr().out
    assert "already done" in trained_again(train, capsys)


def trained_again(train: Train, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    train()
    return capsys.readouterr().err


def test_folds_of_a_run_with_a_logger_and_keys_that_an_earlier_version_had_not(
    train: Train, trained: Train, threshold: Threshold
) -> None:
    folder = trained()
    file = folder.path / "config.yaml"
    cfg = OmegaConf.load(file)
    for key in ("calibration_share", "calibration_fold", "weights_dtype"):
        del cfg[key]
    cfg.logger = {"_target_": "pytorch_lightning.loggers.CSVLogger"}
    file.write_text(OmegaConf.to_yaml(cfg))
    folder.update(files={**folder.manifest["files"], "config.yaml": folder.digest("config.yaml")})
    threshold(folder, "--folds", "2")
    assert not list(folder.path.glob("folds/**/logs"))


def test_folds_are_of_the_images_of_the_run(
    train: Train, images: Path, threshold: Threshold, tmp_path: Path, notes: Noted
) -> None:
    folder = train(*QUICK)
    said = threshold(folder, "--folds", "13", code=2)
    assert "--folds: 13 given for 12 training images" in said
    assert "method.lr" in threshold(folder, "--folds", "2", "method.lr=1", code=2)
    images.rename(tmp_path / "moved")
    assert "dataset.root" in threshold(folder, "--folds", "2", code=2)
    threshold(folder, "--folds", "2", f"dataset.root={tmp_path / 'moved'}")
    save(tmp_path / "moved/train/good/000.png", np.zeros((32, 32, 3), np.uint8))
    began = len(notes("begin"))
    assert "its files are not those" in threshold(folder, "--folds", "3", f"dataset.root={tmp_path / 'moved'}", code=2)
    assert len(notes("begin")) == began


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--normals", "x", "--folds", "3"], "exclude each other"),
        (["--false-alarms", "0"], "--false-alarms"),
        (["--confidence", "1"], "--confidence"),
        (["--folds", "1"], "--folds"),
        (["--per", "pixels"], "--per"),
    ],
)
def test_requests_that_mean_nothing(trained: Train, threshold: Threshold, words: list[str], said: str) -> None:
    assert said in threshold(trained(), *words, code=2)


def test_a_folder_that_is_no_finished_run_or_a_damaged_one(train: Train, threshold: Threshold, tmp_path: Path) -> None:
    assert "no run is here" in threshold(tmp_path, code=2)
    folder = train(*QUICK, SHARE)
    with (folder.path / CALIBRATION).open("a") as file:
        file.write("x.png,held out,99.0,99.0\n")
    assert f"{CALIBRATION}: was changed or damaged" in threshold(folder, code=2)


def test_a_method_without_maps_has_no_threshold_of_pixels(train: Train, threshold: Threshold, tmp_path: Path) -> None:
    folder = train(*QUICK, SHARE)
    rows = (folder.path / CALIBRATION).read_text().splitlines()
    text = "".join(f"{line.rpartition(',')[0]},\n" if i else f"{line}\n" for i, line in enumerate(rows))
    (folder.path / CALIBRATION).write_text(text)
    folder.update(thresholds={}, files={**folder.manifest["files"], CALIBRATION: folder.digest(CALIBRATION)})
    assert "the method gives no maps" in threshold(folder, "--per", "pixel", code=2)
    threshold(folder)
    assert list(folder.manifest["thresholds"]) == ["image"]
