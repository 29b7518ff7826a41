"""A run folder on disk: whole files or none, a status that is always true, numbers that come back as they were."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.json_files import write_json
from anomaly_bench.runs.stored_run import ScoreRow


def started(outputs: Path, category: str = "tile") -> RunFolder:
    folder = RunFolder(outputs / "rd" / "mvtec" / category / "s0-12345678")
    folder.start({"method": "rd"}, "seed: 0\n", ["method=rd", "dataset=mvtec/tile"], afresh=False)
    return folder


def half(file: IO[bytes]) -> None:
    file.write(b"half of ")
    raise RuntimeError("stopped")


def test_a_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a" / "metrics.json"
    write_atomic(file, lambda f: f.write(b"old"))
    with pytest.raises(RuntimeError, match="stopped"):
        write_atomic(file, half)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]
    write_atomic(file, lambda f: f.write(b"new"))
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o644


def test_until_the_writer_is_through_the_old_file_is_there(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    seen = []

    def write(f: IO[bytes]) -> None:
        f.write(b"new")
        f.flush()
        seen.append(file.read_bytes())

    write_atomic(file, lambda f: f.write(b"old"))
    write_atomic(file, write)
    assert seen == [b"old"]
    assert file.read_bytes() == b"new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    def fill(file: IO[bytes]) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        os.close(full)
        file.write(b"x")

    write_atomic(tmp_path / "maps.npy", lambda f: f.write(b"old"))
    with pytest.raises(UserError, match=r"maps\.npy: cannot be written: No space left on device \(free some space"):
        write_atomic(tmp_path / "maps.npy", fill)
    assert (tmp_path / "maps.npy").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["maps.npy"]  # noqa: PTH208


def test_a_folder_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a/b: cannot be written: "):
        write_atomic(tmp_path / "file" / "a" / "b", lambda f: f.write(b""))


def test_the_life_of_a_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "rd" / "mvtec" / "tile" / "s0-12345678")
    assert (folder.status, folder.manifest) == ("new", {})
    folder = started(tmp_path)
    assert folder.status == "running"
    assert (folder.path / "overrides.txt").read_text() == "method=rd\ndataset=mvtec/tile\n"
    assert (folder.path / "config.yaml").read_text() == "seed: 0\n"
    folder.update(stages={"a": {"seconds": 1}}, provenance={"x": "y"})
    folder.update(stages={"b": {"seconds": 2}})
    folder.fail(ValueError("no luck"))
    assert (folder.status, folder.manifest["error"]) == ("failed", "ValueError: no luck")
    begun = folder.manifest["started"]
    again = started(tmp_path)
    assert again.status == "running"
    assert "error" not in again.manifest
    assert again.manifest["started"] == begun
    assert again.manifest["stages"] == {"a": {"seconds": 1}, "b": {"seconds": 2}}
    again.finish()
    assert again.status == "done"
    assert begun <= again.manifest["finished"]


def test_starting_afresh_deletes_everything_starting_again_only_what_a_killed_attempt_left(tmp_path: Path) -> None:
    folder = started(tmp_path)
    (folder.path / "checkpoints" / "a").mkdir(parents=True)
    for name in ("checkpoints/a/last.ckpt", "checkpoints/a/.last.ckpt.x1", ".maps.npy.x2", "log.txt", "heatmaps/1.png"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("")
    (folder.path / ".scoring3").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "link").symlink_to(tmp_path / "elsewhere")
    started(tmp_path)
    left = {f.relative_to(folder.path).as_posix() for f in folder.path.rglob("*") if f.is_file()}
    own = {"manifest.json", "config.yaml", "overrides.txt"}
    assert left == {*own, "checkpoints/a/last.ckpt", "log.txt", "heatmaps/1.png"}
    assert not (folder.path / ".scoring3").exists()
    folder.start({}, "", [], afresh=True)
    assert {f.name for f in folder.path.iterdir()} == own
    assert (tmp_path / "elsewhere").is_dir()  # what a link leads to is not the run's


def test_undefined_metrics_come_back_as_nan_and_the_file_is_strict_json(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.write_metrics({"image_auroc": 0.1 + 0.2, "pixel_auroc": math.nan})
    assert folder.metrics["image_auroc"] == 0.1 + 0.2
    assert math.isnan(folder.metrics["pixel_auroc"])
    assert "NaN" not in (folder.path / "metrics.json").read_text()
    write_json(tmp_path / "deep.json", {"a": [1.5, {"b": math.inf}]})
    assert json.loads((tmp_path / "deep.json").read_text()) == {"a": [1.5, {"b": None}]}


def test_scores_and_maps_come_back_to_the_bit(tmp_path: Path) -> None:
    folder = started(tmp_path)
    values = np.array([1e-30, -3.3333333e8, 0.1], np.float32)
    names = ["test/ä, b.png", 'test/"quoted".png', "test/00042"]
    rows = [ScoreRow(name, "good", 0, float(v)) for name, v in zip(names, values, strict=True)]
    folder.write_scores(rows)
    assert folder.scores == rows
    folder.write_scores(rows[:1])
    assert folder.scores == rows[:1]  # nothing stale
    assert folder.maps is None
    folder.write_maps(values.reshape(3, 1, 1).astype(np.float64))
    assert folder.maps is not None
    assert folder.maps.dtype == np.float32
    assert np.array_equal(folder.maps.ravel(), values)


@pytest.mark.parametrize("text", ['{"status": "do', "", "[]", "null", "{}", '{"status": "doen"}'])
def test_a_damaged_manifest_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(tmp_path, "wood").finish()
    folder = started(tmp_path)
    (folder.path / "manifest.json").write_text(text)
    with pytest.raises(
        UserError, match=r"s0-12345678/manifest\.json: is damaged: .*\(delete it to train the run anew\)"
    ):
        _ = folder.status
    assert len(list(find(tmp_path))) == 2  # the others can still be found
    assert main(["list", "runs", str(tmp_path)]) == 0
    damaged, sound = capsys.readouterr().out.splitlines()
    assert damaged.split()[:3] == ["damaged", str(folder.path), f"{folder.path}/manifest.json:"]
    assert sound.startswith("done ")  # one damaged folder does not hide the others


def test_a_manifest_of_a_later_version_is_left_to_it(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.update(format=99)
    with pytest.raises(UserError, match="has the format 99, which this version does not know"):
        _ = folder.status


def test_a_finished_run_waits_aside_while_it_is_trained_anew(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.write_metrics({"image_auroc": 0.9})
    folder.finish()
    folder.start({"method": "rd"}, "config", [], afresh=True)
    assert folder.status == "running"
    assert RunFolder(folder.replaced).metrics == {"image_auroc": 0.9}
    assert [f.path for f in find(tmp_path)] == [folder.path]  # no table counts it
    folder.start({"method": "rd"}, "config", [], afresh=True)  # again, after a crash
    assert RunFolder(folder.replaced).metrics == {"image_auroc": 0.9}
    folder.finish()
    assert not folder.replaced.exists()


def test_find_gives_run_folders_in_order_and_nothing_else(tmp_path: Path) -> None:
    for category in ("wood", "cable", "tile"):
        started(tmp_path, category)
    for other in ("report/x/y/s1", ".multirun/2026/0", "rd/mvtec/tile/notes"):
        (tmp_path / other).mkdir(parents=True)
    assert [f.path.parent.name for f in find(tmp_path)] == ["cable", "tile", "wood"]
    with pytest.raises(UserError, match="no such folder of runs"):
        list(find(tmp_path / "nowhere"))
