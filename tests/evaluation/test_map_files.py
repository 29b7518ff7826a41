"""`bench eval --maps`: the maps of any program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_eval import Capsys, eval_json, refused
from small_runs import environment, make_images, save

from anomaly_bench.commands.main import main
from anomaly_bench.loading.decode import read_mask
from anomaly_bench.loading.resize import resize_mask
from anomaly_bench.metrics import image_metrics, pixel_metrics

WORDS = ["--memory-mb", "64", "--resamples", "0"]


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


def cells(capsys: Capsys) -> list[list[str]]:
    """What was printed, each line cut where a table has its rules."""
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in re.split("[│┃]", line.strip("│┃"))] for line in lines]


def test_maps_of_another_program(others: Path, capsys: Capsys) -> None:
    found = eval_json(capsys, "--maps", others / "maps", "--masks", others / "data", "--resamples", "50")
    assert list(found) == ["bolt", "screw"]
    assert [found[name]["metrics"] for name in found] == [loaded(others, name) for name in found]
    assert 0.6 < found["bolt"]["metrics"]["pixel_auroc"] < 0.9
    assert found["bolt"] != found["screw"]
    for value in found.values():
        for name, (low, high) in value["intervals"].items():
            exact = value["metrics"][name]
            assert exact in (0, 1) if low is None else low <= exact <= high


def test_several_masks_of_an_image_count_as_their_union(others: Path, capsys: Capsys) -> None:
    whole = eval_json(capsys, "--maps", others / "maps", "--masks", others / "data", *WORDS)
    for file in sorted((others / "data/bolt/ground_truth").glob("*/*_mask.png")):
        mask = np.array(Image.open(file))
        for i in range(2):  # every second row each
            part = mask.copy()
            part[i::2] = 0
            put(file.with_name(file.stem.removesuffix("_mask")) / f"{i:03}.png", part)
        file.unlink()
    assert eval_json(capsys, "--maps", others / "maps", "--masks", others / "data", *WORDS) == whole
    save(others / "data/bolt/ground_truth/hole/001/001.png", np.zeros((23, 24), np.uint8))
    words = ["--maps", str(others / "maps/bolt"), "--masks", str(others / "data/bolt")]
    assert "hole/001/001.png: the mask has 24 x 23 pixels, its map 24 x 24" in refused(capsys, *words)


def test_the_table_has_a_line_for_each_category_and_their_mean(others: Path, capsys: Capsys) -> None:
    words = ["--maps", str(others / "maps"), "--masks", str(others / "data"), "--resamples", "0"]
    assert main(["eval", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [list(loaded(others, name).values()) for name in ("bolt", "screw")]
    rows = [line.split() for line in lines]
    assert ["bolt", *(f"{v:.4f}" for v in expected[0])] in rows
    assert ["screw", *(f"{v:.4f}" for v in expected[1])] in rows
    assert ["mean", *(f"{(a + b) / 2:.4f}" for a, b in zip(*expected, strict=True))] in rows
    assert lines[-3:] == [
        "screw: 10 maps, 6 of anomalous images",
        "score of an image: the largest value of its map; normal: kind 'good'",
        "measured: exact metrics",
    ]


def test_the_table_of_one_category_has_a_line_for_each_metric(others: Path, capsys: Capsys) -> None:
    assert main(["eval", "--maps", str(others / "maps/bolt"), "--masks", str(others / "data")]) == 0
    rows = cells(capsys)
    assert ["metric", "value", "95% interval"] in rows
    for name, value in loaded(others, "bolt").items():
        (row,) = [row for row in rows if row[:1] == [name]]
        assert row[1] == f"{value:.4f}"
        low, high = map(float, row[2].split(" – "))
        assert low <= float(row[1]) <= high


def test_streamed_values_come_with_a_bound_that_is_not_rounded_down(others: Path, capsys: Capsys) -> None:
    words = ["--maps", str(others / "maps/bolt"), "--masks", str(others / "data"), "--memory-mb", "0"]
    bounds = eval_json(capsys, *words)["bolt"]["bounds"]
    assert main(["eval", *words]) == 0
    rows = {row[0]: row for row in cells(capsys)}
    assert rows["image_auroc"][-1] == "0"
    assert all(bound <= float(rows[name][-1]) < max(2 * bound, 1e-15) for name, bound in bounds.items())
    assert any(text.startswith("measured: pixel metrics in one pass, each with its largest error; ") for text in rows)


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
    assert re.search(r"aupro_0\.3 +│ undefined", capsys.readouterr().out)
    save(others / "data/bolt/ground_truth/good/000_mask.png", np.ones((24, 24), np.uint8))
    assert "good/000_mask.png: marks a defect in an image of kind 'good'" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda m, d: (m / "bolt/hole/001.npy").unlink(), "{d}/bolt/ground_truth/hole/001_mask.png: has no map "),
        (lambda m, d: (d / "bolt/ground_truth/hole/001_mask.png").unlink(), "{m}/bolt/hole/001.npy: has no mask; "),
        (lambda m, d: put(m / "bolt/hole/001.tiff", np.ones((24, 24))), "{m}/bolt/hole/001.tiff: and 001.npy are of "),
        (lambda m, d: put(m / "bolt/hole/001.png", np.ones((24, 24), np.uint8)), "{m}/bolt/hole/001.png: and 001.npy"),
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


def test_files_that_are_not_read_are_one_line(others: Path, capsys: Capsys) -> None:
    words = ["eval", "--json", "--maps", str(others / "maps"), "--masks", str(others / "data"), *WORDS]
    assert main(words) == 0
    before = capsys.readouterr()
    assert before.err == ""
    for i in range(4):
        (others / f"maps/bolt/hole/{i}.exr").touch()
    assert main(words) == 0
    after = capsys.readouterr()
    assert after.out == before.out
    names = ", ".join(f"bolt/hole/{i}.exr" for i in range(3))
    (line,) = after.err.splitlines()
    assert line.startswith(f"bench: {others / 'maps'}: ")
    assert "4 x unknown extension" in line
    assert names in line


def test_a_picture_among_the_maps_is_an_error(others: Path, capsys: Capsys) -> None:
    save(others / "maps/bolt/good/009.png", np.zeros((24, 24, 3), np.uint8))
    words = ["--maps", others / "maps", "--masks", others / "data", *WORDS]
    line = f"bench: {others / 'maps/bolt/good/009.png'}: is a picture (RGB), not scores; grey with 8 or 16 bits is read"
    assert refused(capsys, *words) == line


def test_maps_are_measured_without_torch(others: Path) -> None:
    words = ["eval", "--maps", "maps", "--masks", "data", "--json", "--resamples", "10"]
    command = [sys.executable, "-X", "importtime", "-m", "anomaly_bench", *words]
    done = subprocess.run(command, cwd=others, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert list(json.loads(done.stdout)) == ["bolt", "screw"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anomaly_bench.evaluation.map_files" in imported
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
        from anomaly_bench.commands.main import main
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
