"""What lies in the folders of a data set: images, their masks, and what is not used and said."""

from __future__ import annotations

import os
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import grey, save, square

from anomaly_bench.datasets.folder import DEFAULTS, Folder
from anomaly_bench.datasets.mtd import MTD
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_mask
from anomaly_bench.records import Dataset, Record

Change = Callable[[Path], object]


def folder(root: Path, good: str = "good", bad: str = "bad") -> Folder:
    return Folder(str(root), good, bad, 0.2, 0, None)


def read(data: Dataset) -> tuple[list[Record], list[str]]:
    """The records of both splits, and each line that was said of them, without the root."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = [*data.records("train"), *data.records("test")]
    return records, list(dict.fromkeys(str(warning.message).partition(": not used: ")[2] for warning in caught))


def refused(data: Dataset) -> str:
    with pytest.raises(UserError) as caught:
        read(data)
    return str(caught.value)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """good with 10 images, bad with 3."""
    for i in range(10):
        save(tmp_path / "flat" / "good" / f"{i}.png", grey(i))
    for i in range(3):
        save(tmp_path / "flat" / "bad" / f"{i}.jpg", grey(100 + i))
    return tmp_path / "flat"


# --- what is not used is said


def socket_at(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda b: (b / "train/good/x.png").symlink_to("nowhere"), "1 x dangling link (train/good/x.png)"),
        (lambda b: (b / "test/cut/x.png").symlink_to("x.png"), "1 x dangling link (test/cut/x.png)"),
        (lambda b: (b / "test/dent").symlink_to("nowhere"), "1 x dangling link (test/dent)"),
        (lambda b: os.mkfifo(b / "test/good/x.png"), "1 x no regular file (test/good/x.png)"),
        (lambda b: socket_at(b / "test/good/x.png"), "1 x no regular file (test/good/x.png)"),
        (lambda b: (b / "test/good/x.png").symlink_to("/dev/zero"), "1 x no regular file (test/good/x.png)"),
        (lambda b: (b / "train/good/x.png").mkdir(), "1 x folder (train/good/x.png)"),
        (lambda b: save(b / "test/cut/deep/x.png", grey(1)), "1 x folder (test/cut/deep)"),
        (lambda b: save(b / "train/good/x.gif", grey(1)), "1 x unknown extension (train/good/x.gif)"),
        (lambda b: [(b / f"test/good/{i}.raw").touch() for i in range(5)],
         "5 x unknown extension (test/good/0.raw, test/good/1.raw, test/good/2.raw, ...)"),
        (lambda b: save(b / "train/bad/x.png", grey(1)), "1 x folder that is no part of the layout (train/bad)"),
        (lambda b: save(b / "validated/good/x.png", grey(1)), "1 x folder that is no part of the layout (validated)"),
        (lambda b: [save(b / f"{kind}/x.png", grey(1)) for kind in ("good", "bad")],
         "2 x folder that is no part of the layout (bad, good)"),
        (lambda b: save(b / "test/x.png", grey(1)), "1 x image outside the folders of the layout (test/x.png)"),
        (lambda b: save(b / "x.png", grey(1)), "1 x image outside the folders of the layout (x.png)"),
        (lambda b: save(b / "ground_truth/cut/9_mask.png", grey(1)), "1 x mask without an image (ground_truth/cut/9_m"),
        (lambda b: save(b / "ground_truth/good/000.png", grey(0)), "1 x mask of a normal image (ground_truth/good/000"),
        (lambda b: save(b / "test/good/000_mask.png", grey(0)), "1 x mask of a normal image (test/good/000_mask.png)"),
        (lambda b: save(b / "train/good/000_gt.png", grey(0)), "1 x mask of a normal image (train/good/000_gt.png)"),
        (lambda b: save(b / "ground_truth/dent/0.png", grey(1)), "1 x folder of masks for a kind without images ("),
        (lambda b: save(b / "ground_truth/0.png", grey(1)), "1 x image outside the folders of the layout (ground_trut"),
        (lambda b: (b / "ground_truth/cut/x.npy").touch(), "1 x unknown extension (ground_truth/cut/x.npy)"),
        (lambda b: (b / "license.txt").rename(os.fsdecode(os.fsencode(b) + b"/test/good/\xff\n.x")),
         "1 x unknown extension (test/good/\\udcff\\n.x)"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_counted_and_named(category: Path, change: Change, line: str) -> None:
    (category / "license.txt").touch()
    before, said = read(folder(category))
    assert said == []
    change(category)
    after, said = read(folder(category))
    assert after == before
    assert [text[: len(line)] for text in said] == [line]


def test_several_reasons_are_one_line(category: Path) -> None:
    (category / "test/good/x.raw").touch()
    (category / "test/cut/x.png").symlink_to("nowhere")
    _, (line,) = read(folder(category))
    assert line == "1 x dangling link (test/cut/x.png); 1 x unknown extension (test/good/x.raw)"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: save(f / "scratch/0.png", grey(1)), "1 x folder that is no part of the layout (scratch)"),
        (lambda f: save(f / "ground_truth/scratch/0.png", grey(1)), "1 x folder of masks for a kind without images ("),
        (lambda f: (f / "good/x.tga").touch(), "1 x unknown extension (good/x.tga)"),
        (lambda f: save(f / "good/1_mask.png", grey(0)), "1 x mask of a normal image (good/1_mask.png)"),
        (lambda f: save(f / "x.png", grey(0)), "1 x image outside the folders of the layout (x.png)"),
    ],
)
def test_flat_folders_say_it_too(flat: Path, change: Change, line: str) -> None:
    for i in range(3):
        save(flat / f"ground_truth/bad/{i}.png", square())
    before, said = read(folder(flat))
    assert said == []
    change(flat)
    after, said = read(folder(flat))
    assert after == before
    assert [text[: len(line)] for text in said] == [line]


def test_one_flat_folder_may_lie_in_the_other(flat: Path) -> None:
    (flat / "bad").rename(flat / "good" / "bad")
    records, said = read(folder(flat, bad="good/bad"))
    assert (len(records), said) == (13, [])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda r: (r / "MT_Free/Imgs/exp9_num_Free.jpg").rename(r / "MT_Free/Imgs/exp9_num_Free.bmp"),
         "1 x mask without an image (MT_Free/Imgs/exp9_num_Free.png); 1 x unknown extension (MT_Free/Imgs/exp9_num_Fr"),
        (lambda r: (r / "MT_Crack/Imgs/exp1_num_Crack.jpg").unlink(), "1 x mask without an image (MT_Crack/Imgs/exp1_"),
        (lambda r: save(r / "MT_Dent/Imgs/a.jpg", grey(1)), "1 x folder that is no part of the layout (MT_Dent)"),
        (lambda r: save(r / "MT_Crack/a.jpg", grey(1)), "1 x image outside the folders of the layout (MT_Crack/a.jpg)"),
    ],
)  # fmt: skip
def test_tiles_that_are_not_used_are_said(tiles: Path, change: Change, line: str) -> None:
    data = MTD(str(tiles), None, 0.8, 0)
    assert read(data)[1] == []
    change(tiles)
    reasons = read(data)[1][0].split("; ")
    assert "; ".join(sorted(reasons)).startswith(line)


def test_tiles_in_capitals_find_their_masks(tiles: Path) -> None:
    imgs = tiles / "MT_Crack/Imgs"
    (imgs / "exp0_num_Crack.jpg").rename(imgs / "exp0_num_Crack.JPG")
    (imgs / "exp0_num_Crack.png").rename(imgs / "exp0_num_Crack.PNG")
    records, said = read(MTD(str(tiles), None, 0.8, 0))
    assert said == []
    assert [r.mask for r in records if r.path.endswith(".JPG")] == [imgs / "exp0_num_Crack.PNG"]
    save(imgs / "exp0_num_Crack.png", grey(1))
    line = f"{imgs / 'exp0_num_Crack.png'}: and {imgs / 'exp0_num_Crack.PNG'} are masks of the same image"
    assert refused(MTD(str(tiles), None, 0.8, 0)).startswith(line)


def test_repeated_lines_of_a_split_are_said(tiles: Path) -> None:
    names = tiles / "names.txt"
    names.write_text("\ufeffexp3_num_Free.jpg\nexp0_num_Free.jpg\nexp0_num_Free.jpg\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"names.txt: repeated lines: 1 \(first: exp0_num_Free.jpg\)"):
        assert len(MTD(str(tiles), str(names), 0.8, 0).records("train")) == 2
    os.mkfifo(tiles / "pipe")
    assert "pipe cannot be read: no such file" in refused(MTD(str(tiles), str(tiles / "pipe"), 0.8, 0))
    assert "cannot be read: no such file" in refused(MTD(str(tiles), "x" * 300, 0.8, 0))


# --- masks


@pytest.mark.parametrize(
    "name", ["0_mask.png", "0_GT.png", "0_label.bmp", "0_Mask.TIF", "0_gt.tiff", "0_label.gif", "0_MASK.PNG"]
)
def test_masks_beside_the_images_are_no_images(flat: Path, name: str) -> None:
    for i in range(3):
        save(flat / "bad" / f"{i}{name[1:]}", square())
    records, said = read(folder(flat))
    assert said == []
    assert [r.path for r in records if r.label] == ["bad/0.jpg", "bad/1.jpg", "bad/2.jpg"]
    assert [r.mask for r in records if r.label] == [flat / "bad" / f"{i}{name[1:]}" for i in range(3)]
    assert all((read_mask(r.mask, (8, 8)) == (square() > 0)).all() for r in records if r.mask)


def test_masks_beside_the_images_of_the_other_layout(category: Path) -> None:
    before, _ = read(folder(category))
    for kind in ("bent", "cut"):
        for mask in (category / "ground_truth" / kind).iterdir():
            mask.rename(category / "test" / kind / mask.name)
    shutil.rmtree(category / "ground_truth")
    after, said = read(folder(category))
    assert said == []
    assert [(r.path, r.mask and r.mask.name) for r in after] == [(r.path, r.mask and r.mask.name) for r in before]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF", "gif"])
@pytest.mark.parametrize("place", ["ground_truth", "masks"])
@pytest.mark.parametrize("end", ["", "_mask", "_GT"])
def test_masks_of_any_lossless_format_in_either_folder(flat: Path, place: str, suffix: str, end: str) -> None:
    for i in range(3):
        save(flat / place / "bad" / f"{i}{end}.{suffix}", square())
    records, said = read(folder(flat))
    assert said == []
    assert [r.mask and r.mask.parent.parent.name for r in records if r.label] == [place] * 3
    assert all((read_mask(r.mask, (8, 8)) == (square() > 0)).all() for r in records if r.mask)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: save(f / "bad/7_mask.png", square()), "{f}/bad/7_mask.png: is a mask by its name, and no image "),
        (lambda f: save(f / "good/x_label.png", grey(1)), "{f}/good/x_label.png: is a mask by its name, and no image "),
        (lambda f: save(f / "bad/0_gt.png", square()), "{f}/bad/1.jpg: has no mask; looked for 1_mask, "),
        (lambda f: [save(f / f"bad/{n}", square()) for n in ("0_gt.png", "0_mask.bmp")],
         "{f}/bad/0_mask.bmp: and {f}/bad/0_gt.png are masks of the same image"),
        (lambda f: [save(f / n, square()) for n in ("masks/bad/0.png", "ground_truth/bad/0_mask.png")],
         "{f}/masks/bad/0.png: and {f}/ground_truth/bad/0_mask.png are masks of the same image"),
        (lambda f: save(f / "masks/bad/0_mask.jpg", square()),
         "{f}/bad/0.jpg: has no mask; looked for 0_mask, _gt or _label, or 0, as .png, .bmp, .tif, .tiff, .gif in "
         "{f}/masks/bad (0_mask.jpg is not read: the values of a mask must be stored without loss)"),
        (lambda f: [save(f / f"bad/{i}_mask.jpg", square()) for i in range(3)],
         "{f}/bad/0.jpg: has no mask; looked for 0_mask, _gt or _label, or 0, as .png, .bmp, .tif, .tiff, .gif in "
         "{f}/bad (0_mask.jpg is not read: "),
        (lambda f: save(f / "bad/0.png", square()), "{f}/bad/0.png: and 0.jpg have one name, so that one may be "),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_told_are_refused(flat: Path, change: Change, line: str) -> None:
    change(flat)
    assert refused(folder(flat)).startswith(line.format(f=flat))


def test_a_mask_that_is_not_finite_is_refused(flat: Path) -> None:
    mask = np.zeros((8, 8), np.float32)
    mask[2, 3] = np.nan
    save(flat / "0.tif", mask)
    with pytest.raises(UserError, match=r"0.tif: the mask holds values that are not finite"):
        read_mask(flat / "0.tif", (8, 8))
    mask[2, 3] = 0.5
    save(flat / "0.tif", mask)
    assert np.argwhere(read_mask(flat / "0.tif", (8, 8))).tolist() == [[2, 3]]


# --- settings that would be ignored or make no sense


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("good", "good", "dataset.bad_dir: 'good' is the same folder as good_dir, 'good'"),
        ("good", "./good/", "dataset.bad_dir: './good/' is the same folder as good_dir, 'good'"),
        ("good", "link", "dataset.bad_dir: 'link' is the same folder as good_dir, 'good'"),
        ("bad", "good", "dataset.bad_dir: 'good' given; its last name is the kind of defect, and 'good' means normal"),
        ("good", ".", "dataset.bad_dir: '.' given; its last name is the kind of defect"),
        ("../flat/good", "bad", "dataset.good_dir: '../flat/good' does not lie in {f} (dataset.root=DIR holds both)"),
        ("good", "/tmp", "dataset.bad_dir: '/tmp' does not lie in {f} (dataset.root=DIR holds both)"),
        ("good", "x" * 300, "dataset.root: {f} has neither train/good and test/<kind> nor good and xxx"),
    ],
)
def test_flat_folders_that_make_no_sense(flat: Path, good: str, bad: str, line: str) -> None:
    (flat / "link").symlink_to("good")
    assert refused(folder(flat, good, bad)).startswith(line.format(f=flat))


@pytest.mark.parametrize("key", ["good_dir", "bad_dir"])
def test_flat_folders_beside_train_are_refused_when_they_are_named(category: Path, key: str) -> None:
    save(category / "other" / "0.png", grey(1))
    names = {"good": "good", "bad": "bad"} | {key[: -len("_dir")]: "other"}
    line = f"dataset.{key}: 'other' given, but {category} has a folder train, whose layout would be read "
    assert refused(folder(category, **names)).startswith(line)


@pytest.mark.parametrize(("key", "value"), [("test_share", 0.3), ("split_seed", 1)])
def test_a_split_that_would_not_be_made_is_refused(category: Path, key: str, value: float) -> None:
    given = DEFAULTS | {key: value}
    with pytest.raises(UserError, match=f"dataset.{key}: '{value}' given, but .* has a folder train"):
        Folder(str(category), **given, category=None).records("test")


def test_normal_images_in_a_folder_of_another_case_are_refused(category: Path) -> None:
    (category / "test" / "good").rename(category / "test" / "Good")
    assert "test/Good: 'Good' would be a kind of defect (normal images lie in 'good')" in refused(folder(category))


@pytest.mark.parametrize("root", ["x" * 300, "x/" * 3000, "~nobody_of_that_name/x"])
def test_a_root_that_cannot_be_is_one_line(root: str) -> None:
    assert refused(folder(Path(root))).startswith("dataset.root: no such folder: ")
    assert refused(MTD(root, None, 0.8, 0)).startswith("dataset.root: no such folder: ")


def test_masks_in_a_folder_of_the_image_are_one_mask(category: Path) -> None:
    own = category / "ground_truth/bent/001"
    (category / "ground_truth/bent/001_mask.png").unlink()
    second = grey(0)
    second[0, 7] = 1
    save(own / "b.png", second)
    save(own / "a.png", square())
    (own / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"not used: 1 x unknown extension \(ground_truth/bent/001/notes.txt\)"):
        records = folder(category).records("test")
    assert [r.mask_files for r in records if r.path == "test/bent/001.png"] == [(own / "a.png", own / "b.png")]
    (mask,) = (read_mask(r.mask, (8, 8)) for r in records if r.path == "test/bent/001.png" and r.mask is not None)
    assert (mask == (square() > 0) | (second > 0)).all()
    save(category / "ground_truth/bent/001_mask.png", square())
    with pytest.raises(UserError, match=r"are masks of the same image"):
        folder(category).records("test")


def test_gif_is_a_mask_only(flat: Path) -> None:
    Image.fromarray(grey(7)).save(flat / "bad" / "9.gif")
    records, (line,) = read(folder(flat))
    assert len(records) == 13
    assert line == "1 x unknown extension (bad/9.gif)"
