"""`bench eval`: a run measured again, and the maps of any program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_runs import TOY, Bench, Train, environment, make_images, save

from anomaly_bench.cli import main
from anomaly_bench.contracts import Record
from anomaly_bench.data.decode import read_mask, resize_mask
from anomaly_bench.evaluate.tiff import file_names
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.store import RunFolder, ScoreRow, write_json

Capsys = pytest.CaptureFixture[str]
WORDS = ["--memory-mb", "64", "--resamples", "0"]


def eval_json(capsys: Capsys, *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "--json", *map(str, words)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: Capsys, *words: object) -> str:
    """The one line that `bench eval` says; it must leave with 2."""
    capsys.readouterr()
    assert main(["eval", *map(str, words)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    return line


def test_a_run_is_confirmed(train: Train, capsys: Capsys) -> None:
    folder = train()
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
def test_metrics_that_were_changed_are_restored(train: Train, capsys: Capsys, damage: str) -> None:
    folder = train()
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


def test_what_is_measured_is_what_is_stored(train: Train, capsys: Capsys) -> None:
    folder = train()
    scores, maps = [row.score + row.label for row in folder.scores], folder.maps
    assert maps is not None
    reversed_maps = -np.array(maps)
    folder.write_maps(reversed_maps)
    folder.write_scores(
        ScoreRow(row.path, row.kind, row.label, s) for row, s in zip(folder.scores, scores, strict=True)
    )
    found = eval_json(capsys, folder.path)[str(folder.path)]["metrics"]
    masks = [masks_of(folder)[row.path] for row in folder.scores]
    labels = np.array([row.label for row in folder.scores])
    assert found == image_metrics(np.array(scores), labels) | pixel_metrics(reversed_maps, masks)
    assert found["image_auroc"] == 1
    assert found["pixel_auroc"] < 0.5
    assert folder.metrics == found


def masks_of(folder: RunFolder) -> dict[str, np.ndarray]:
    """16 x 16, straight from the files of the small data set."""
    masks = {}
    for row in folder.scores:
        file = Path("widgets") / re.sub(r"^test/(.*)\.png$", r"ground_truth/\1_mask.png", row.path)
        mask = read_mask(file, (32, 32)) if row.label else np.zeros((32, 32), bool)
        masks[row.path] = resize_mask(mask, 16)
    return masks


def test_several_runs_options_and_a_run_of_an_earlier_version(train: Train, capsys: Capsys) -> None:
    folders = [train(seed=seed) for seed in (0, 1)]
    config = folders[1].path / "config.yaml"
    kept = [
        line
        for line in config.read_text().splitlines()
        if not re.match(r" *(metrics_memory_mb|resamples|workers):", line)
    ]
    config.write_text("\n".join(kept))
    found = eval_json(capsys, *(folder.path for folder in folders), "--resamples", "20", "--threads", "2")
    assert list(found) == [str(folder.path) for folder in folders]
    assert [found[str(f.path)]["metrics"] for f in folders] == [f.metrics for f in folders]
    assert [f.manifest["measurement"]["resamples"] for f in folders] == [20, 20]
    assert {value["how"] for value in found.values()} == {"exact"}
    assert all(value["intervals"].keys() == value["metrics"].keys() for value in found.values())


def test_a_small_budget_streams_within_its_bounds(train: Train, capsys: Capsys) -> None:
    folder = train()
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
    assert line == f"bench: dataset: {what} (dataset.root=DIR names another place)"
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
    damage: Callable[[RunFolder], object], words: list[str], line: str, train: Train, capsys: Capsys
) -> None:
    folder = train()
    damage(folder)
    assert refused(capsys, folder.path, *words).startswith("bench: " + line.format(run=folder.path))


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


def test_written_tiffs_give_the_numbers_of_the_run(train: Train, capsys: Capsys, tmp_path: Path) -> None:
    folder = train()
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
    assert line == f"bench: {tmp_path}/a b/widgets: is not empty (--write-tiff writes into a new folder)"


def test_an_empty_mask_is_written_and_read_back(train: Train, images: Path, capsys: Capsys, tmp_path: Path) -> None:
    save(images / "ground_truth/hole/001_mask.png", np.zeros((32, 32), np.uint8))
    folder = train()
    (tmp_path / "out/widgets").mkdir(parents=True)  # an empty folder is as good as none
    assert main(["eval", str(folder.path), "--write-tiff", str(tmp_path / "out")]) == 0
    (found,) = eval_json(capsys, "--maps", tmp_path / "out", "--masks", tmp_path / "out").values()
    assert found["metrics"] == folder.metrics
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_place_that_cannot_be_written_is_one_line(train: Train, capsys: Capsys, tmp_path: Path) -> None:
    folder = train()
    (tmp_path / "file").write_text("mine")
    line = refused(capsys, folder.path, "--write-tiff", tmp_path / "file")
    assert line.startswith(f"bench: {tmp_path}/file/widgets: cannot be written: ")
    assert line.endswith("(free some space or choose another folder)")


def test_images_of_one_name_get_names_of_their_own() -> None:
    places = [("a/0.png", "cut"), ("b/0.png", "cut"), ("b/0.png", "dent"), ("b/1.png", "cut"), ("b/1.jpg", "dent")]
    records = [Record(path, kind, Path(path)) for path, kind in places]
    assert file_names(records) == ["a_0.png", "b_0.png", "0", "1", "1"]


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """maps of another program for two categories, and a data set: maps/<category>/<kind>/<id>.npy, data/<category>."""
    rng = np.random.default_rng(0)
    for category in ("bolt", "screw"):
        base = make_images(tmp_path / "data" / category, side=24)
        for image in sorted(base.glob("test/*/*.png")):
            kind = image.parent.name
            file = base / "ground_truth" / kind / f"{image.stem}_mask.png"
            mask = read_mask(file, (24, 24)) if kind != "good" else np.zeros((24, 24), bool)
            put(tmp_path / f"maps/{category}/{kind}/{image.stem}.npy", rng.normal(size=(24, 24)) + mask)
    return tmp_path


def put(file: Path, scores: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    {".npy": np.save, ".png": save}.get(file.suffix, tifffile.imwrite)(file, scores)


def loaded(root: Path, category: str) -> dict[str, float]:
    """What the metrics must be, from the files of `others`."""
    files = sorted((root / "maps" / category).glob("*/*.npy"))
    maps, bad = [np.load(file) for file in files], [file.parent.name != "good" for file in files]
    masks = [np.zeros((24, 24), bool) for _ in files]
    for i, file in enumerate(files):
        if bad[i]:
            mask = root / f"data/{category}/ground_truth/{file.parent.name}/{file.stem}_mask.png"
            masks[i] = np.asarray(Image.open(mask)) > 0
    return image_metrics(np.array([m.max() for m in maps]), np.array(bad, int)) | pixel_metrics(maps, masks)


def test_maps_of_another_program(others: Path, capsys: Capsys) -> None:
    found = eval_json(capsys, "--maps", others / "maps", "--masks", others / "data", "--resamples", "50")
    assert list(found) == ["bolt", "screw"]
    assert [found[name]["metrics"] for name in found] == [loaded(others, name) for name in found]
    assert 0.6 < found["bolt"]["metrics"]["pixel_auroc"] < 0.9
    assert found["bolt"] != found["screw"]
    for value in found.values():
        for name, (low, high) in value["intervals"].items():
            assert low <= value["metrics"][name] <= high


def test_the_table_has_a_line_for_each_category_and_their_mean(others: Path, capsys: Capsys) -> None:
    words = ["--maps", str(others / "maps"), "--masks", str(others / "data"), "--resamples", "0"]
    assert main(["eval", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [list(loaded(others, name).values()) for name in ("bolt", "screw")]
    rows = [line.split() for line in lines]
    assert ["bolt", *(f"{v:.4f}" for v in expected[0])] in rows
    assert ["screw", *(f"{v:.4f}" for v in expected[1])] in rows
    assert ["mean", "of", "2", *(f"{(a + b) / 2:.4f}" for a, b in zip(*expected, strict=True))] in rows
    assert lines[-3:] == [
        "bolt: 10 maps, 6 of anomalous images; exact",
        "screw: 10 maps, 6 of anomalous images; exact",
        "score of an image: the largest value of its map; normal: kind 'good'",
    ]


def test_the_table_of_one_category_has_a_line_for_each_metric(others: Path, capsys: Capsys) -> None:
    assert main(["eval", "--maps", str(others / "maps/bolt"), "--masks", str(others / "data")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["metric", "value", "95%", "interval"] in rows
    for name, value in loaded(others, "bolt").items():
        (row,) = [row for row in rows if row[:1] == [name]]
        assert row[1] == f"{value:.4f}"
        assert float(row[2]) <= float(row[1]) <= float(row[4])


def test_formats_give_the_same_numbers(others: Path, capsys: Capsys) -> None:
    for file in sorted((others / "maps/bolt").glob("*/*.npy")):
        scores = np.clip(8192 * (np.load(file) + 4), 0, 65535).astype(np.uint16)
        for suffix in ("png", "tif", "npy"):
            put(others / f"{suffix}/bolt/test/{file.parent.name}/{file.stem}.{suffix}", scores)
    found = [eval_json(capsys, "--maps", others / s, "--masks", others / "data/bolt") for s in ("png", "tif", "npy")]
    assert found[0] == found[1] == found[2]
    assert 0.6 < found[0]["bolt"]["metrics"]["pixel_auroc"] < 0.9


def test_masks_of_another_size_are_refused_or_resized(others: Path, capsys: Capsys) -> None:
    for file in (others / "maps/bolt").glob("*/*.npy"):
        np.save(file, np.load(file)[:16, :16])
    words = ["--maps", others / "maps/bolt", "--masks", others / "data", *WORDS]
    assert "the mask has 24 x 24 pixels, its map 16 x 16 (--resize-masks brings" in refused(capsys, *words)
    files = sorted((others / "maps/bolt").glob("*/*.npy"))
    truth = [others / f"data/bolt/ground_truth/{f.parent.name}/{f.stem}_mask.png" for f in files]
    masks = [resize_mask(read_mask(t, (24, 24)), 16) if t.exists() else np.zeros((16, 16), bool) for t in truth]
    found = eval_json(capsys, *words, "--resize-masks")["bolt"]["metrics"]
    assert {name: found[name] for name in found if not name.startswith("image")} == pixel_metrics(
        [np.load(file) for file in files], masks
    )


def test_maps_of_normal_images_only_are_undefined_and_say_why(others: Path, capsys: Capsys) -> None:
    for kind in ("hole", "line"):
        shutil.rmtree(others / "maps/bolt" / kind)
        shutil.rmtree(others / "data/bolt/ground_truth" / kind)
    save(others / "data/bolt/ground_truth/good/000_mask.png", np.zeros((24, 24), np.uint8))  # as some data sets have
    capsys.readouterr()
    words = ["--maps", str(others / "maps/bolt"), "--masks", str(others / "data/bolt"), *WORDS]
    assert main(["eval", "--json", *words]) == 0
    answer = capsys.readouterr()
    assert set(json.loads(answer.out)["bolt"]["metrics"].values()) == {None}
    assert [line.partition(" undefined: ")[2] for line in answer.err.splitlines()] == [
        "no image is anomalous",
        "no image has an anomalous pixel",
    ]
    assert main(["eval", *words]) == 0
    assert re.search(r"aupro_0\.3 +undefined", capsys.readouterr().out)
    save(others / "data/bolt/ground_truth/good/000_mask.png", np.ones((24, 24), np.uint8))
    assert "good/000_mask.png: marks a defect in an image of kind 'good'" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda m, d: (m / "bolt/hole/001.npy").unlink(), "{d}/bolt/ground_truth/hole/001_mask.png: has no map "),
        (lambda m, d: (d / "bolt/ground_truth/hole/001_mask.png").unlink(), "{m}/bolt/hole/001.npy: has no mask; "),
        (lambda m, d: put(m / "bolt/hole/001.tiff", np.ones((24, 24))), "{m}/bolt/hole/001.tiff: and 001.npy are of "),
        (lambda m, d: (m / "screw").rename(m / "scew"), "{d}: holds no masks of 'scew', only of bolt, screw (did you "),
        (lambda m, d: np.save(m / "bolt/hole/001.npy", np.full((24, 24), np.inf)), "{m}/bolt/hole/001.npy: score inf"),
        (lambda m, d: (m / "bolt/hole/001.npy").write_bytes(b""), "{m}/bolt/hole/001.npy: cannot be read as an ano"),
        (lambda m, d: (d / "bolt/ground_truth/hole/001_mask.png").write_bytes(b""),
         "{d}/bolt/ground_truth/hole/001_mask.png: cannot be read as an image"),
        (lambda m, d: truncate(d / "bolt/ground_truth/hole/001_mask.png"),
         "{d}/bolt/ground_truth/hole/001_mask.png: cannot be read as an image"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_files_is_one_line(
    damage: Callable[[Path, Path], object], line: str, others: Path, capsys: Capsys
) -> None:
    maps, data = others / "maps", others / "data"
    damage(maps, data)
    words = ["--maps", maps, "--masks", data, *WORDS]
    assert refused(capsys, *words).startswith("bench: " + line.format(m=maps, d=data))


def truncate(file: Path) -> None:
    """The header stays whole."""
    file.write_bytes(file.read_bytes()[:60])


def test_pictures_are_no_maps(others: Path, capsys: Capsys) -> None:
    words = ["--maps", others / "data/bolt/test", "--masks", others / "data/bolt"]
    assert "test/good/000.png: is a picture (RGB), not scores; " in refused(capsys, *words)


def test_maps_are_measured_without_torch(others: Path) -> None:
    words = ["eval", "--maps", "maps", "--masks", "data", "--json", "--resamples", "10"]
    command = [sys.executable, "-X", "importtime", "-m", "anomaly_bench", *words]
    done = subprocess.run(command, cwd=others, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert list(json.loads(done.stdout)) == ["bolt", "screw"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anomaly_bench.evaluate.maps" in imported
    assert imported & {"torch", "pytorch_lightning", "timm"} == set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    put(tmp_path / "maps/good/0.tiff", rng.normal(size=(512, 512)).astype(np.float32))  # 1 MiB
    put(tmp_path / "maps/hole/0.tiff", rng.normal(size=(512, 512)).astype(np.float32))
    save(tmp_path / "masks/hole/0.png", np.pad(np.ones((8, 8), np.uint8), 252))
    words = ["eval", "--maps", "maps", "--masks", "masks", "--memory-mb", "1", "--resamples", "0", "--json"]
    script = f"""if True:
        import pathlib, sys
        from anomaly_bench.cli import main
        assert main({words}) == 0
        print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)"""
    peaks = []
    for count in (10, 110):
        for i in range(1, count):
            (tmp_path / f"maps/good/{i}.tiff").unlink(missing_ok=True)
            os.link(tmp_path / "maps/good/0.tiff", tmp_path / f"maps/good/{i}.tiff")
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert json.loads(done.stdout)["maps"]["how"] == "streaming", done.stderr
        peaks.append(int(done.stderr.splitlines()[-1]) / 1024)  # in MiB
    assert peaks[1] - peaks[0] < 30  # all maps at once would be 100 more


def test_the_real_command(bench: Bench, images: Path, tmp_path: Path) -> None:
    assert bench("train", *TOY, f"dataset.root={images}").returncode == 0
    (run,) = tmp_path.glob("outputs/toy/folder/widgets/s0-*")
    done = bench("eval", str(run))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the stored metrics are confirmed\n")
