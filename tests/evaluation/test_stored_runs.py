"""`bench eval RUN`: measured again from what the run stored, and written as files for others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_eval import Capsys, eval_json, refused
from small_runs import TOY, Bench, Train, save

from anomaly_bench.commands.main import main
from anomaly_bench.contracts import Record
from anomaly_bench.datasets.folder import Folder
from anomaly_bench.evaluation.export_tiff import file_names
from anomaly_bench.loading.decode import read_mask
from anomaly_bench.loading.image_files import fingerprint
from anomaly_bench.loading.resize import resize_mask
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.json_files import write_json
from anomaly_bench.runs.stored_run import LARGE, SMALL, ScoreRow
from tests.references import metrics as slow


def test_a_run_is_confirmed(trained: Train, capsys: Capsys) -> None:
    folder = trained()
    before = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["eval", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "the stored metrics are confirmed"
    assert f"{folder.metrics['aupro_0.3']:.4f}" in out
    after = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert after.keys() == before.keys()
    earlier, entry = json.loads(before["manifest.json"])["measurement"], folder.manifest["measurement"]
    assert {key: entry[key] for key in earlier} == earlier  # intervals too, to the bit
    assert entry.keys() - earlier.keys() == {"measured", "anomaly_bench"}
    assert folder.status == "done"


@pytest.mark.parametrize("damage", ["numbers", "nothing", "no JSON"])
def test_metrics_that_were_changed_are_restored(trained: Train, capsys: Capsys, damage: str) -> None:
    folder = trained()
    file, metrics = folder.path / "metrics.json", folder.metrics
    if damage == "numbers":
        write_json(file, {**metrics, "image_auroc": 0.25, "old": 0.5})
    elif damage == "nothing":
        file.unlink()
    else:
        file.write_text("{")
    capsys.readouterr()
    assert main(["eval", str(folder.path)]) == 0
    changes = [line for line in capsys.readouterr().out.splitlines() if " -> " in line]
    if damage == "numbers":
        assert changes == [f"image_auroc: 0.25 -> {metrics['image_auroc']!r}", "old: 0.5 -> none"]
    else:
        assert changes == [f"{name}: none -> {value!r}" for name, value in metrics.items()]
    assert folder.metrics == metrics


def test_what_is_measured_is_what_is_stored(trained: Train, capsys: Capsys) -> None:
    folder = trained()
    scores, maps = [row.score + row.label for row in folder.scores], folder.maps
    assert maps is not None
    reversed_maps = -np.array(maps)
    folder.write_maps(reversed_maps)
    folder.write_scores(
        ScoreRow(row.path, row.kind, row.label, s) for row, s in zip(folder.scores, scores, strict=True)
    )
    before = (folder.path / "metrics.json").read_bytes()
    assert "maps.npy: was changed or damaged" in refused(capsys, folder.path).replace("scores.csv", "maps.npy")
    assert (folder.path / "metrics.json").read_bytes() == before
    found = eval_json(capsys, folder.path, "--accept-changes")[str(folder.path)]["metrics"]
    assert folder.manifest["accepted_changes"] == ["scores.csv", "maps.npy"]
    line = "changed after the run was done, and taken as it is: scores.csv, maps.npy"
    assert folder.manifest["protocol"][-1] == line  # which the terminal and the page show
    assert folder.damage((*SMALL, *LARGE)) == []
    masks = [masks_of(folder)[row.path] for row in folder.scores]
    labels = np.array([row.label for row in folder.scores])
    assert found == image_metrics(np.array(scores), labels) | pixel_metrics(reversed_maps, masks)
    assert found["image_auroc"] == 1
    assert found["pixel_auroc"] < 0.5
    assert folder.metrics == found


def test_a_run_with_masks_of_another_resize_rule_is_told_so(trained: Train, capsys: Capsys) -> None:
    folder = trained()
    assert main(["eval", str(folder.path)]) == 0
    assert "resize rule" not in capsys.readouterr().err
    manifest = folder.manifest
    del manifest["resize_rule"]  # as in runs before it was stored
    write_json(folder.path / "manifest.json", manifest)
    assert main(["eval", str(folder.path)]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("the stored metrics are confirmed\n")
    assert err.count("\n") == 1
    assert f"{folder.path}: the run has resize rule 1, its masks are now resized by rule 2" in err
    assert "resize_rule" not in folder.manifest  # its images were, whatever its masks are now


def test_thresholds_are_kept_and_their_test_figures_follow_the_stored_scores(trained: Train, capsys: Capsys) -> None:
    folder = trained("calibration_share=0.25")
    before = folder.manifest["thresholds"]
    eval_json(capsys, folder.path)
    assert folder.manifest["thresholds"] == before
    assert main(["list", "runs", "outputs", "--verify"]) == 0
    limits, rows = {level: entry["threshold"] for level, entry in before.items()}, folder.scores
    folder.write_scores(replace(row, score=limits["image"] + (i % 2)) for i, row in enumerate(rows))
    maps = np.full((len(rows), 16, 16), limits["pixel"], np.float32)  # on the threshold, which is not above it
    maps[: len(rows) // 2, 3, 3] += 1
    folder.write_maps(maps)
    eval_json(capsys, folder.path, "--accept-changes")
    above = {"image": [i % 2 == 1 for i in range(len(rows))], "pixel": [i < len(rows) // 2 for i in range(len(rows))]}
    for level, entry in folder.manifest["thresholds"].items():
        flags = dict(zip((row.path for row in rows), above[level], strict=True))
        assert {key: value for key, value in entry.items() if key != "test"} == {
            key: value for key, value in before[level].items() if key != "test"
        }
        assert entry["test"]["false_alarms"] == sum(flags[row.path] for row in rows if not row.label)
        for kind in ("hole", "line"):
            assert entry["test"]["found"][kind] == [sum(flags[r.path] for r in rows if r.kind == kind), 3]


def test_seg_f1_is_at_the_threshold_of_pixels(trained: Train, capsys: Capsys) -> None:
    folder = trained("calibration_share=0.25")
    entry, masks = folder.manifest["thresholds"]["pixel"], masks_of(folder)
    maps = np.load(folder.path / "maps.npy").astype(np.float64)
    low = float(np.quantile(maps, 0.9))
    for threshold in (entry["threshold"], low):  # that of the run, and one at which defects are found
        folder.update(thresholds={"pixel": {**entry, "threshold": threshold}})
        eval_json(capsys, folder.path)
        found = folder.manifest["thresholds"]["pixel"]["test"]["seg_f1"]
        expected = slow.seg_f1(maps.tolist(), [masks[row.path].tolist() for row in folder.scores], threshold)
        assert found == float(expected)
    assert found > 0


def masks_of(folder: RunFolder) -> dict[str, np.ndarray]:
    """16 x 16, straight from the files of the small data set."""
    masks = {}
    for row in folder.scores:
        file = Path(folder.manifest["place"]) / re.sub(r"^test/(.*)\.png$", r"ground_truth/\1_mask.png", row.path)
        mask = read_mask(file, (32, 32)) if row.label else np.zeros((32, 32), bool)
        masks[row.path] = resize_mask(mask, 16)
    return masks


def test_several_runs_options_and_a_run_of_an_earlier_version(trained: Train, capsys: Capsys) -> None:
    folders = [trained(seed=seed) for seed in (0, 1)]
    dataset = Folder(folders[0].manifest["place"], "good", "bad", 0.2, 0, None)
    old = {"data": fingerprint([*dataset.records("train"), *dataset.records("test")])}
    config = folders[1].path / "config.yaml"
    kept = [
        line
        for line in config.read_text().splitlines()
        if not re.match(r" *(metrics_memory_mb|resamples|workers):", line)
    ]
    config.write_text("\n".join(kept))
    write_json(folders[1].path / "manifest.json", {**folders[1].manifest, "format": 1, "files": {}, "checksums": old})
    found = eval_json(capsys, *(folder.path for folder in folders), "--resamples", "20", "--threads", "2")
    assert list(found) == [str(folder.path) for folder in folders]
    assert [found[str(f.path)]["metrics"] for f in folders] == [f.metrics for f in folders]
    assert [f.manifest["measurement"]["resamples"] for f in folders] == [20, 20]
    assert {value["how"] for value in found.values()} == {"exact"}
    assert all(value["intervals"].keys() == value["metrics"].keys() for value in found.values())


def test_a_small_budget_streams_within_its_bounds(trained: Train, capsys: Capsys) -> None:
    folder = trained()
    exact = folder.metrics
    found = eval_json(capsys, folder.path, "--memory-mb", "0", "--resamples", "0")[str(folder.path)]
    assert found["how"] == folder.manifest["measurement"]["how"] == "streaming"
    assert found["intervals"] == {}
    assert "aupro_0.3" in found["bounds"]
    assert all(abs(found["metrics"][name] - exact[name]) <= bound for name, bound in found["bounds"].items())


def test_data_that_moved_and_data_that_changed(train: Train, images: Path, capsys: Capsys, tmp_path: Path) -> None:
    folder = train()
    images.rename(tmp_path / "moved")
    line = refused(capsys, folder.path)
    assert line.startswith(f"bench: dataset.root: no such folder: {images}")
    found = eval_json(capsys, folder.path, "dataset.root=moved", f"cache_dir={tmp_path}/cache")
    assert found[str(folder.path)]["metrics"] == folder.metrics
    assert list((tmp_path / "cache").iterdir())
    save(tmp_path / "moved/test/hole/003.png", np.zeros((32, 32, 3), np.uint8))
    save(tmp_path / "moved/ground_truth/hole/003_mask.png", np.ones((32, 32), np.uint8))
    before = (folder.path / "metrics.json").read_bytes()
    line = refused(capsys, folder.path, "dataset.root=moved")
    what = f"its files are not those that {folder.path} was measured on"
    change = "1 of 23 images differ: added test/hole/003.png"
    assert all(text in line for text in ("bench: dataset: ", what, change, "dataset.root=DIR"))
    assert (folder.path / "metrics.json").read_bytes() == before


def lines_out(folder: RunFolder, count: int) -> None:
    file = folder.path / "scores.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-count]))


@pytest.mark.parametrize(
    ("damage", "words", "line"),
    [
        (lambda f: shutil.rmtree(f.path), [], "{run}: no run is here (`bench list runs` shows where runs are)"),
        (lambda f: f.update(status="failed"), [], "{run}: the run is not finished (status: failed) "),
        (lambda f: (f.path / "maps.npy").unlink(), [], "{run}/maps.npy: is missing (force=true "),
        (lambda f: (f.path / "maps.npy").write_bytes(b"x"), [], "{run}/maps.npy: cannot be read: "),
        (lambda f: f.write_maps(np.zeros((9, 16, 16))), [], "{run}/maps.npy: holds 9 maps of 16 x 16 pixels; the ru"),
        (lambda f: f.write_maps(np.full((10, 16, 16), np.nan)), [], "{run}: is damaged: image 0: score nan at row 0, "),
        (lambda f: (f.path / "scores.csv").unlink(), [], "{run}/scores.csv: is missing or damaged: "),
        (lambda f: (f.path / "scores.csv").write_text("a,b\n1,2"), [], "{run}/scores.csv: is missing or damaged: "),
        (lambda f: (f.path / "config.yaml").unlink(), [], "{run}/config.yaml: is missing or holds no configuration of"),
        (lambda f: lines_out(f, 1), [], "dataset: its files are not those that {run} was measured on "),
        (lambda f: (f.path / "config.yaml").write_text("a: 1"), [], "{run}/config.yaml: is missing or holds no conf"),
        (lambda f: None, ["dataset.rot=a"], "bench eval: 'dataset.rot' is none of cache_dir, dataset.root (did you m"),
        (lambda f: None, ["seed=1"], "bench eval: 'seed' is none of cache_dir, dataset.root"),
        (lambda f: None, ["--maps", "a"], "bench eval: measures runs or --maps, not both; {run} was taken for a run"),
        (lambda f: None, ["--resize-masks"], "bench eval: --resize-masks goes with --maps only"),
        (lambda f: None, ["--write-tiff", "a", "--json"], "bench eval: --write-tiff writes maps and measures nothing "),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_measured_is_one_line(
    damage: Callable[[RunFolder], object], words: list[str], line: str, trained: Train, capsys: Capsys
) -> None:
    folder = trained()
    before = folder.path.is_dir() and (folder.path / "metrics.json").read_bytes()
    damage(folder)
    said = refused(capsys, folder.path, *words)
    if "was changed" in said or " is missing" in said:
        assert said.startswith(f"bench: {folder.path}/")
        said = refused(capsys, folder.path, *words, "--accept-changes")
    assert said.startswith("bench: " + line.format(run=folder.path))
    assert not folder.path.is_dir() or (folder.path / "metrics.json").read_bytes() == before


def test_a_run_without_maps_is_one_line(train: Train, capsys: Capsys) -> None:
    folder = train("save_maps=false")
    assert "maps.npy: is missing: the run was made with save_maps=false (" in refused(capsys, folder.path)


def test_a_data_set_without_masks_needs_no_maps(train: Train, images: Path, capsys: Capsys, tmp_path: Path) -> None:
    shutil.rmtree(images / "ground_truth")
    folder = train()
    found = eval_json(capsys, folder.path)[str(folder.path)]["metrics"]
    assert found == folder.metrics
    assert set(found) == {"image_auroc", "image_ap", "image_f1_max"}
    assert "or its data set no masks" in refused(capsys, folder.path, "--write-tiff", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_written_tiffs_give_the_numbers_of_the_run(trained: Train, capsys: Capsys, tmp_path: Path) -> None:
    folder = trained()
    capsys.readouterr()
    assert main(["eval", str(folder.path), "--write-tiff", str(tmp_path / "a b")]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"bench eval --maps '{tmp_path}/a b' --masks '{tmp_path}/a b'"
    files = [path.relative_to(tmp_path / "a b/widgets") for path in sorted((tmp_path / "a b").rglob("*.*"))]
    assert len(files) == 2 * 10 + 6
    assert {str(file) for file in files} >= {
        *("test/good/000.tiff", "test/hole/001.tiff", "test/hole/001.png", "ground_truth/hole/001_mask.png"),
    }
    (found,) = eval_json(capsys, "--maps", tmp_path / "a b", "--masks", tmp_path / "a b").values()
    assert found["metrics"] == folder.metrics  # the toy's image score is the map's largest value
    one = tmp_path / "a b/widgets"
    assert eval_json(capsys, "--maps", one / "test", "--masks", one / "ground_truth")["widgets"] == found
    with Image.open(one / "test/hole/001.png") as image, Image.open(one / "ground_truth/hole/001_mask.png") as mask:
        assert (image.mode, image.size) == ("RGB", (16, 16))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
        assert np.array_equal(np.asarray(mask) > 0, masks_of(folder)["test/hole/001.png"])
    row = next(i for i, r in enumerate(folder.scores) if r.path == "test/hole/001.png")
    assert folder.maps is not None
    assert np.array_equal(tifffile.imread(one / "test/hole/001.tiff"), folder.maps[row])
    line = refused(capsys, folder.path, "--write-tiff", tmp_path / "a b")
    assert line.startswith(f"bench: {tmp_path}/a b/widgets: is not empty")


def test_an_empty_mask_is_written_and_read_back(train: Train, images: Path, capsys: Capsys, tmp_path: Path) -> None:
    save(images / "ground_truth/hole/001_mask.png", np.zeros((32, 32), np.uint8))
    folder = train()
    (tmp_path / "out/widgets").mkdir(parents=True)  # an empty folder is as good as none
    assert main(["eval", str(folder.path), "--write-tiff", str(tmp_path / "out")]) == 0
    (found,) = eval_json(capsys, "--maps", tmp_path / "out", "--masks", tmp_path / "out").values()
    assert found["metrics"] == folder.metrics
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_place_that_cannot_be_written_is_one_line(trained: Train, capsys: Capsys, tmp_path: Path) -> None:
    folder = trained()
    (tmp_path / "file").write_text("mine")
    line = refused(capsys, folder.path, "--write-tiff", tmp_path / "file")
    assert line.startswith(f"bench: {tmp_path}/file/widgets: cannot be written: ")
    assert line.endswith("(free some space or choose another folder)")


def test_images_of_one_name_get_names_of_their_own() -> None:
    places = [("a/0.png", "cut"), ("b/0.png", "cut"), ("b/0.png", "dent"), ("b/1.png", "cut"), ("b/1.jpg", "dent")]
    records = [Record(path, kind, Path(path)) for path, kind in places]
    assert file_names(records) == ["a_0.png", "b_0.png", "0", "1", "1"]


def test_the_real_command(bench: Bench, images: Path, tmp_path: Path) -> None:
    assert bench("train", *TOY, f"dataset.root={images}").returncode == 0
    (run,) = tmp_path.glob("outputs/toy/folder/widgets/s0-*")
    done = bench("eval", str(run))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the stored metrics are confirmed\n")
