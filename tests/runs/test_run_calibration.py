"""Normal images that are held out before the training: which ones, what becomes of them, and that nothing sees them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import FILES, QUICK, TOYS, Bench, Noted, Train, contents, equal, save

from anomaly_bench import config
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_list import read_list
from anomaly_bench.loading.loaders import hold_out_calibration
from anomaly_bench.records import Record
from anomaly_bench.runs.calibration import CalibrationRow, read_rows, write_rows
from anomaly_bench.runs.calibration import test_line as line_of_test
from anomaly_bench.runs.find import find_data
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import promise
from anomaly_bench.runs.runner import split
from anomaly_bench.runs.stored_run import CALIBRATION, IMAGES

SHARE = "calibration_share=0.25"  # three of twelve


def paths(folder: RunFolder, source: str = "held out") -> set[str]:
    return {row.path for row in read_rows(folder, CALIBRATION) if row.source == source}


def learned(notes: Noted) -> set[str]:
    return {path for step in notes("step") for path in step["paths"]}


def test_no_training_sees_what_is_held_out(train: Train, notes: Noted) -> None:
    folder = train(*QUICK, SHARE)
    assert contents(folder) == FILES - {"heatmaps"} | {CALIBRATION}
    held_out = paths(folder)
    assert len(held_out) == 3
    assert learned(notes) | held_out == {f"train/good/{i:03}.png" for i in range(12)}
    assert learned(notes) & held_out == set()
    assert folder.manifest["images"] == {"train": 7, "val": 2, "calibration": 3, "test_good": 4, "test_anomalous": 6}
    assert any("3 normal images (held out) took no part" in line for line in folder.manifest["protocol"])
    assert CALIBRATION in folder.manifest["files"]
    scored = sum(line["shape"][0] for line in notes("score"))
    assert scored == 10 + 3


def test_the_seed_draws_them_and_they_do_not_move_the_score(train: Train, trained: Train) -> None:
    one, again, other = (train(*QUICK, SHARE, outputs=o, seed=s) for o, s in (("a", 0), ("b", 0), ("c", 1)))
    assert (one.path / CALIBRATION).read_bytes() == (again.path / CALIBRATION).read_bytes()
    assert equal(one, again)
    assert paths(one) != paths(other)
    assert one.path.name == again.path.name != trained().path.name


def test_thresholds_are_stored_with_what_they_promise(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*QUICK, SHARE)
    rows, thresholds = read_rows(folder, CALIBRATION), folder.manifest["thresholds"]
    assert list(thresholds) == ["image", "pixel"]
    assert thresholds["image"]["threshold"] == max(row.score for row in rows)
    assert thresholds["pixel"]["threshold"] == max(row.map_max for row in rows if row.map_max is not None)
    entry = thresholds["image"]
    assert (entry["n"], entry["r"], entry["rate"], entry["file"]) == (3, 0, 0.05, CALIBRATION)
    assert entry["promised"] == pytest.approx(1 - 0.05 ** (1 / 3))  # the largest of three: P(rate > b) = (1 - b)^3
    above = [row for row in folder.scores if row.score > entry["threshold"]]
    assert entry["test"]["false_alarms"] == sum(not row.label for row in above)
    assert {kind: found for kind, (found, _) in entry["test"]["found"].items()} == {
        kind: sum(row.kind == kind for row in above) for kind in ("hole", "line")
    }
    said = capsys.readouterr().err
    assert "5 % at 95 % needs 59 normal images, you have 3: what 3 can promise is 63 %" in said
    assert line_of_test(entry) in said


def test_the_scores_are_those_of_the_finished_model(train: Train) -> None:
    from anomaly_bench.inference.load import load

    folder = train(*QUICK, SHARE)
    rows, root = read_rows(folder, CALIBRATION), Path(folder.manifest["place"])
    results = list(load(folder.path, config_dir=TOYS / "conf").predict([root / row.path for row in rows]))
    assert [result.score for result in results] == [row.score for row in rows]
    assert [float(r.map.max()) for r in results if r.map is not None] == [row.map_max for row in rows]
    assert [result.unlike for result in results] == [""] * 3


def test_the_methods_own_validation_images_are_others(shared_images: Path) -> None:
    for method, val in (("us", "us_fast"), ("glf", "glf_fast")):
        words = [f"method={val}", "dataset=folder", f"dataset.root={shared_images}", "calibration_share=0.5"]
        settings = config.validate(config.compose(words))
        built, data = config.build("method", settings.method), find_data(settings)
        splits = {name: [r.path for r in each] for name, each in split(data, built, settings).items()}
        every = [*splits["train"], *splits["val"], *splits["held out"]]
        assert sorted(every) == sorted(record.path for record in data.train), method
        assert len(splits["held out"]) == 6
        assert splits["val"], method


def test_only_a_share_above_zero_changes_the_id() -> None:
    def identity(*more: str) -> config.Identity:
        words = ["method=toy", "dataset=demo/brick", "seed=3", "hardware=cpu", *more]
        return config.identify(config.validate(config.compose(words, extra=str(TOYS / "conf"))))

    before = config.Identity("f407e940", "38c11eac")  # as it was when there was no such key
    assert identity() == identity("calibration_share=0") == identity("calibration_share=0.0") == before
    others = {identity(f"calibration_share={share}") for share in (0.1, 0.2)} | {identity("calibration_fold=1/5")}
    assert len({each.run for each in others} | {before.run}) == 4
    assert len({each.setting for each in others} | {before.setting}) == 4


RECORDS = [Record(f"{i:03}", "good", Path(f"{i:03}")) for i in range(23)]


def test_folds_are_parts_that_make_up_the_whole() -> None:
    held_out = []
    for k in range(1, 6):
        train, fold = hold_out_calibration(RECORDS, 0.5, f"{k}/5", seed=7)
        assert sorted(train + fold, key=lambda r: r.path) == RECORDS
        assert len(fold) in (4, 5)
        held_out += fold
    assert sorted(held_out, key=lambda r: r.path) == RECORDS


@pytest.mark.parametrize(
    ("share", "fold", "where"),
    [(0.99, None, "calibration_share"), (0, "24/24", "calibration_fold"), (0.5, "1/24", "")],
)
def test_none_left_is_a_mistake(share: float, fold: str | None, where: str) -> None:
    if not where:
        assert len(hold_out_calibration(RECORDS, share, fold, 0)[1]) == 1
        return
    with pytest.raises(UserError) as refused:
        hold_out_calibration(RECORDS, share, fold, 0)
    assert refused.value.where == where


@pytest.mark.parametrize("given", ["0/5", "6/5", "1/1", "5", "a/b", "1/5/5", "-1/5"])
def test_folds_that_are_none(train: Train, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="calibration_fold"):
        config.validate(config.compose(["method=rd", "dataset=mtd", f"calibration_fold={given}"]))


def test_a_killed_run_ends_with_the_same_calibration(train: Train, bench: Bench, tmp_path: Path) -> None:
    whole = train(*QUICK, SHARE, outputs="whole")
    (tmp_path / "notes/die").touch()
    words = (tmp_path / f"whole/{whole.path.relative_to('whole')}/overrides.txt").read_text().splitlines()
    words = [word for word in words if not word.startswith("output_dir")]
    done = bench("train", "--config-dir", str(TOYS / "conf"), *words)
    assert done.returncode < 0
    (tmp_path / "notes/die").unlink()
    folder = train(*QUICK, SHARE)
    assert "fitted in an earlier attempt" in (folder.path / "log.txt").read_text()
    assert (folder.path / CALIBRATION).read_bytes() == (whole.path / CALIBRATION).read_bytes()
    assert folder.manifest["thresholds"] == whole.manifest["thresholds"]


# The data set's own normal images


def keep_apart(images: Path, count: int = 3) -> Path:
    """Move normal training images to validation/good."""
    place = images / "validation/good"
    place.mkdir(parents=True)
    for file in sorted((images / "train/good").iterdir())[:count]:
        file.rename(place / file.name)
    return place


def test_the_images_of_validation_good_calibrate(train: Train, images: Path, notes: Noted) -> None:
    keep_apart(images)
    folder = train(*QUICK, SHARE)
    assert paths(folder, "validation") == {f"validation/good/{i:03}.png" for i in range(3)}
    assert len(paths(folder)) == 2  # a quarter of nine
    assert learned(notes) & (paths(folder) | paths(folder, "validation")) == set()
    assert folder.manifest["thresholds"]["image"]["source"] == "held out and validation"
    assert folder.manifest["images"]["calibration"] == 5
    entries = read_list((folder.path / IMAGES).read_text())
    assert {e.path for e in entries if e.split == "validation"} == paths(folder, "validation")
    assert folder.path.name == train(*QUICK, SHARE).path.name


def test_a_run_that_did_not_look_for_them_is_still_finished(
    train: Train, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*QUICK)
    before = folder.manifest
    save(images / "validation/good/new.png", np.full((32, 32, 3), 110, np.uint8))
    capsys.readouterr()
    assert train(*QUICK).manifest == before
    assert "already done" in capsys.readouterr().err
    (images / "train/good/000.png").unlink()  # what it was trained on still counts
    train(*QUICK, code=2)


@pytest.mark.parametrize("place", ["train/good/000.png", "test/good/000.png", "test/hole/000.png"])
def test_an_image_of_another_split_is_refused(
    train: Train, images: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = keep_apart(images) / "copy.png"
    shutil.copy(images / (place if "test" in place else "train/good/005.png"), target)
    with pytest.raises(UserError, match="no such folder of runs"):  # nothing was begun
        train(*QUICK, code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    assert (
        "validation images that are training or test images too, by content: 1 (first: validation/good/copy.png" in line
    )


# The file


def test_rows_keep_every_digit(tmp_path: Path) -> None:
    rows = [
        CalibrationRow('a,"b"/ä.png', "held out", 0.1 + 0.2, None),
        CalibrationRow("c.png", "validation", -1e-320, 7.000000000000001),
    ]
    write_rows(RunFolder(tmp_path), "rows.csv", rows)
    assert read_rows(RunFolder(tmp_path), "rows.csv") == rows
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["path", "source", "score", "map_max"]


@pytest.mark.parametrize("content", [None, "path,source\na,b\n", "path,source,score,map_max\na,b,high,\n", "\xff"])
def test_a_file_of_scores_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "rows.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows\.csv: is missing or damaged.*bench threshold makes it anew"):
        read_rows(RunFolder(tmp_path), "rows.csv")


def test_the_three_promises() -> None:
    entry = {"rate": 0.05, "confidence": 0.95, "n": 60, "promised": 0.049, "source": "held out"}
    assert promise(entry) == "at most 5 % false alarms (95 % confidence, 60 normal images)"
    few = {**entry, "n": 32, "promised": 0.0893}
    assert promise(few) == "5 % at 95 % needs 59 normal images, you have 32: what 32 can promise is 8.9 %"
    folds = {**entry, "promised": 0.1, "approximate": True, "source": "5 folds"}
    assert promise(folds) == "about 10 % false alarms at most, without a guarantee (60 normal images, 5 folds)"
    tested = {"false_alarms": 2, "normal": 41, "interval": [0.006, 0.1653], "found": {"a": [80, 100], "b": [7, 19]}}
    line = "on the test images: 2 of 41 normals (0.6-16.5 %), 87 of 119 defects found"
    assert line_of_test({**entry, "test": tested}) == line
    assert "not stored" in line_of_test(entry)
