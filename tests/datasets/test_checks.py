"""What `bench train` says of a data set before it trains, and which data sets it refuses."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import QUICK, TOY, Train, save

from anomaly_bench.commands.main import main
from anomaly_bench.datasets.checks import check_overlap
from anomaly_bench.loading.image_files import describe_images
from anomaly_bench.loading.image_list import list_images
from anomaly_bench.records import Record

Capsys = pytest.CaptureFixture[str]
FOUND = "folder: 12 training, 4 good and 6 defective test images (6 with masks), 32 x 32 px"


def noise(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def refused(images: Path, capsys: Capsys) -> str:
    """The one line of a run that does not start; nothing is written."""
    capsys.readouterr()
    assert main(["train", *TOY, f"dataset.root={images}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path("outputs").exists()
    return line.removeprefix("bench: ")


def test_what_was_found_is_said_and_what_is_not_used_is_stored(images: Path, train: Train, capsys: Capsys) -> None:
    (images / "test/good/notes.odt").touch()
    shutil.copy(images / "train/good/003.png", images / "test/good/009.png")
    run = train(*QUICK)
    lines = capsys.readouterr().err.splitlines()
    said = [
        f"{images}: not used: 1 x unknown extension (test/good/notes.odt)",
        "normal test images that are training images too, by content: 1 "
        "(first: test/good/009.png is train/good/003.png)",
    ]
    assert lines[:3] == [*said, FOUND.replace("4 good", "5 good")]
    assert run.manifest["passed_over"] == said


def test_masks_beside_the_images_change_no_number(images: Path, tmp_path: Path, train: Train) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(images / "train/good", flat / "good")
    shutil.copytree(images / "test/hole", flat / "hole")
    plain = train(f"dataset.root={flat}", "dataset.bad_dir=hole", *QUICK, outputs="plain")
    for i in range(3):
        shutil.copy(images / f"ground_truth/hole/{i:03}_mask.png", flat / f"hole/{i:03}_mask.png")
    beside = train(f"dataset.root={flat}", "dataset.bad_dir=hole", *QUICK, outputs="beside")
    assert plain.manifest["images"] == beside.manifest["images"]
    assert plain.manifest["images"]["test_anomalous"] == 3
    assert plain.metrics["image_auroc"] == beside.metrics["image_auroc"]
    assert "pixel_auroc" not in plain.metrics
    assert "pixel_auroc" in beside.metrics


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: shutil.copy(d / "train/good/003.png", d / "test/hole/009.png"),
         "dataset: defective test images that are normal images too, by content: 1 (first: test/hole/009.png is "
         "train/good/003.png) (remove each from one of the two places)"),
        (lambda d: (d / "test/line/009.png").symlink_to(d / "test/good/001.png"),
         "dataset: defective test images that are normal images too, by content: 1 (first: test/line/009.png is "
         "test/good/001.png) (remove each from one of the two places)"),
        (lambda d: save(d / "test/good/a\nb.png", noise(1)),
         "test/good/a\\nb.png: this name has control characters or bytes that are not UTF-8 (rename the file or "),
        (lambda d: (d / "test/line").rename(d / "test/l\x1b[31m"), "test/l\\x1b[31m/000.png: this name has control "),
        (lambda d: (d / "test/good/000.png").rename(os.fsdecode(os.fsencode(d) + b"/test/good/\xff.png")),
         "test/good/\\udcff.png: this name has control characters or bytes that are not UTF-8 (rename the file or "),
    ],
)  # fmt: skip
def test_data_that_cannot_carry_a_result_is_refused(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capsys,
    change: Callable[[Path], object],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(images / "ground_truth")
    change(images)
    assert refused(images, capsys).startswith(line)


def test_long_names_and_letters_of_any_script_work(images: Path, train: Train, capsys: Capsys) -> None:
    deep = images.parent / "/".join(["d" * 100] * 5)
    deep.mkdir(parents=True)
    images = images.rename(deep / "Teile_ü_部品")
    save(images / f"test/good/{'a' * 251}.png", noise(1))
    save(images / 'test/good/a, "b" ü\u3000部.png', noise(2))
    run = train(f"dataset.root='{images}'")
    rows = {row.path for row in run.scores}
    assert {f"test/good/{'a' * 251}.png", 'test/good/a, "b" ü\u3000部.png'} < rows
    assert len(list((run.path / "heatmaps").iterdir())) == 12


def damaged_png(width: int, height: int) -> bytes:
    """A header without pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("train/good/x.png", lambda f: f.write_bytes(b""), "cannot be read as an image: cannot identify image file"),
        ("test/good/x.png", lambda f: f.write_text("an essay"), "cannot be read as an image: cannot identify image"),
        ("test/good/x.png", lambda f: f.write_bytes(damaged_png(0, 0)), "cannot be read as an image: "),
        ("test/good/x.png", lambda f: f.write_bytes(damaged_png(9, 9)), "cannot be read as an image: "),
        ("test/good/x.png", lambda f: f.write_bytes(damaged_png(30000, 30000)),
         "cannot be read as an image: Image size (900000000 pixels) exceeds limit of "),
        ("train/good/x.tif", lambda f: Image.fromarray(np.zeros((8, 8), np.float32)).save(f), "has 32-bit values "),
        ("ground_truth/hole/000_mask.png", lambda f: save(f, np.ones((8, 9), np.uint8)),
         "the mask has 9 x 8 pixels, its image 32 x 32"),
        ("ground_truth/hole/000_mask.tif", lambda f: Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(f),
         "the mask holds values that are not finite"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_before_the_training(
    images: Path, train: Train, capsys: Capsys, name: str, change: Callable[[Path], object], line: str
) -> None:
    if name.startswith("ground_truth"):
        (images / "ground_truth/hole/000_mask.png").unlink()
    change(images / name)
    run = train(*QUICK, code=2)
    lines = capsys.readouterr().err.splitlines()
    (said,) = [text for text in lines if text.startswith("bench: ")]
    assert said.startswith(f"bench: {images / name}: {line}")
    assert not any("epoch" in text or "Traceback" in text for text in lines)
    assert run.manifest["status"] == "failed"


# --- in one line what was found


def test_sizes_are_ranges_and_come_from_headers(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    save(files[0], noise(0, 10, 500))
    save(files[1], noise(1, 12, 520))
    files[2].write_bytes(damaged_png(510, 11))  # the decoder will say what is wrong
    files[3].write_bytes(b"nothing")
    train = [Record(file.name, "good", file) for file in files[:2]]
    test = [Record("a", "good", files[3]), Record("b", "cut", files[2], files[0]), Record("c", "cut", files[3])]
    assert describe_images(train, test) == (
        "2 training, 1 good and 2 defective test images (1 with masks), 500-520 x 10-12 px"
    )
    arrays = [Record("a", "good", np.zeros((28, 30, 3), np.uint8))]
    assert describe_images(arrays, []) == "1 training, 0 good and 0 defective test images (none with masks), 30 x 28 px"
    assert describe_images(test[:1], []) == "1 training, 0 good and 0 defective test images (none with masks)"


def test_a_decompression_bomb_is_measured_in_silence(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.png").write_bytes(damaged_png(10000, 10000))
    assert describe_images([Record("a", "good", tmp_path / "a.png")], []).endswith("10000 x 10000 px")
    assert len(recwarn) == 0


def test_official_arrays_that_contradict_themselves_are_said_only() -> None:
    same, other = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    train = [Record("train/0", "good", same), Record("train/1", "good", other)]
    test = [Record("test/0", "cat", same.copy()), Record("test/1", "cat", same.copy())]
    with pytest.warns(UserWarning, match=r"^defective test .*: 2 \(first: test/0 is train/0\)$"):
        check_overlap(train, test, list_images(train, test))
