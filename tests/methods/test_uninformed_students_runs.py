"""Uninformed Students as a user runs it: combinations that cannot work, teachers that are kept, a killed run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.nets.teachers import save_teacher
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.runner import run
from tests.forks import Forks
from tests.former_runs import with_former_keys
from tests.methods.small_us import PATCH, method, scales
from tests.small_runs import TOYS, curve, environment, equal, make_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four natural images."""
    (tmp_path / "photos").mkdir()
    for i in range(4):
        few = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(few).resize((80, 60), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{i}.jpg")
    return tmp_path / "photos"


# Configurations


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["method.dense=false"],
            "method.patch_sizes: [17, 33, 65] given for an image_size of 256; dense=false makes an image one patch "
            "(such as method.image_size=33 method.patch_sizes=[33])",
        ),
        (
            ["method.dense=false", "method.image_size=33", "method.patch_sizes=[17]"],
            "method.patch_sizes: [17] given for an image_size of 33; dense=false makes an image one patch "
            "(such as method.image_size=33 method.patch_sizes=[33])",
        ),
        (
            ["method.patch_sizes=[33,33]"],
            "method.patch_sizes: [33, 33] given, allowed: each size once",
        ),
    ],
)
def test_combinations_that_cannot_work(overrides: list[str], line: str) -> None:
    settings = config.validate(config.compose(["method=us", "dataset=mtd", *overrides]))
    with pytest.raises(UserError) as refused:
        config.build("method", settings.method)
    assert str(refused.value) == line


# Whole runs


def make_few_images(root: Path) -> Path:
    """Four to train with, three to test with."""
    make_images(root, side=16)
    for file in [*sorted((root / "train/good").iterdir())[4:], *(f for f in root.glob("test/*/*") if f.stem > "000")]:
        file.unlink()
    return root


def overrides(root: Path, photos: Path, weights: Path, *more: str) -> list[str]:
    return [
        "method=us", f"method.teacher.images={photos}", "method.backbone=resnet18", f"method.weights={weights}",
        "method.teacher.layer=3", "method.teacher.steps=3", "method.teacher.batch_size=4", "method.patch_sizes=[33]",
        "method.dense_stride=4", "method.students=2", "method.epochs=2", "method.image_size=16", "dataset=folder",
        f"dataset.root={root}", "hardware=cpu", "hardware.threads=1", "checkpoint_seconds=0", "save_heatmaps=false",
        "resamples=0", *more,
    ]  # fmt: skip


def test_teachers_are_distilled_once_and_a_killed_run_goes_on(
    tmp_path: Path, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    first = overrides(make_few_images(tmp_path / "first"), photos, weights)
    script = TOYS / "die_in_training.py"
    child = forks.run([script, "uninformed_students", "StudentTraining", *first], tmp_path, environment())
    assert child.returncode < 0, child.stderr
    (killed,) = find(tmp_path / "outputs")
    assert killed.status == "running"
    assert list(killed.manifest["stages"]) == ["teacher_p33"]
    assert curve(killed) == [("teacher_p33", 0), ("students_p33", 0)]
    (teacher,) = (tmp_path / "cache" / "teachers").iterdir()
    written = teacher.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for outputs in ("outputs", "whole"):
        assert main(["train", *first, f"output_dir={outputs}"]) == 0
    (whole,) = find(tmp_path / "whole")
    assert "students_p33: resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == whole.status == "done"
    assert list(killed.manifest["stages"]) == ["teacher_p33", "students_p33", "score"]
    assert list(whole.manifest["stages"]) == ["students_p33", "score"]
    assert curve(killed)[1:] == curve(whole) == [("students_p33", 0), ("students_p33", 1)]
    assert equal(killed, whole)
    with (whole.path / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss_per_student"]) for r in rows] == pytest.approx([float(r["loss"]) / 2 for r in rows], rel=1e-4)
    other = make_few_images(tmp_path / "second")
    assert main(["train", *overrides(other, photos, weights, "method.students=1", "output_dir=whole")]) == 0
    (second,) = (folder for folder in find(tmp_path / "whole") if folder.path.parent.name == "second")
    assert list(second.manifest["stages"]) == ["students_p33", "score"]
    assert [f.stat().st_mtime_ns for f in teacher.parent.iterdir()] == [written]
    assert len({f.manifest["provenance"]["teacher_p33_sha256"] for f in (killed, whole, second)}) == 1
    assert second.maps is not None
    assert second.maps.shape == (3, 16, 16)


def without_maps(place: Path) -> list[str]:
    """The overrides of a run whose images are one patch each, with a teacher's file; all of it in `place`."""
    (scale,), file = scales(method(seed=3, **PATCH)), place / "mine.safetensors"
    save_teacher(scale.teacher, file, {})
    values = ["method.image_size=17", "method.patch_sizes=[17]", "method.dense=false", "method.epochs=1"]
    data = ["dataset=folder", f"dataset.root={make_few_images(place / 'first')}"]
    where = ["hardware=cpu", "hardware.threads=1", f"output_dir={place / 'outputs'}"]
    return ["method=us", f"method.teacher.file={file}", *values, *data, *where]


@pytest.fixture(scope="module")
def run_without_maps(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], RunFolder]:
    """Its overrides, and its folder."""
    overrides = without_maps(tmp_path_factory.mktemp("place"))
    return overrides, run(config.compose(overrides))


def test_a_run_without_maps(run_without_maps: tuple[list[str], RunFolder]) -> None:
    _, folder = run_without_maps
    assert folder.status == "done"
    assert folder.maps is None
    assert {key for key in folder.metrics if key.startswith(("pixel", "aupro"))} == set()
    assert 0 <= folder.metrics["image_auroc"] <= 1


def test_a_run_of_an_earlier_version_is_finished_and_measured_and_shown(
    run_without_maps: tuple[list[str], RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, folder = run_without_maps
    place = next(parent.parent for parent in folder.path.parents if parent.name == "outputs")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", sys.argv)
    with_former_keys(folder)
    assert "teacher_steps: 50000" in (folder.path / "config.yaml").read_text()
    before, trained = folder.metrics, (folder.path / "weights.safetensors").stat().st_mtime_ns
    for argv in (["train", *overrides], ["eval", str(folder.path)], ["list", "runs"], ["report"]):
        assert main(argv) == 0, argv
    assert len(list(find("outputs"))) == 1
    assert (folder.path / "weights.safetensors").stat().st_mtime_ns == trained  # once
    assert RunFolder(folder.path).metrics == before
    assert "the stored metrics are confirmed" in capsys.readouterr().out


def test_a_mistake_is_one_line_before_any_training(
    tmp_path: Path, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    given = overrides(make_images(tmp_path / "first"), photos, weights, "method.patch_sizes=[17,17]")
    assert main(["train", *given]) == 2
    line = "bench: method.patch_sizes: [17, 17] given, allowed: each size once"
    assert capsys.readouterr().err.splitlines() == [line]
    assert not (tmp_path / "outputs").exists()
