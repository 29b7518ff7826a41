"""Maps in files: every format as it is, and what is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_images import grey, save

from anomaly_bench.errors import UserError
from anomaly_bench.loading.anomaly_maps import (
    LazySequence,
    lazy_rows,
    open_stored_maps,
    read_map,
    read_marks_for,
    write_map,
    write_png16,
)
from anomaly_bench.loading.resize import resize_mask

MAP = np.linspace(-3, 5, 48).reshape(6, 8)
Damage = Callable[[Path], object]


def write(file: Path, scores: np.ndarray) -> Path:
    """Any of the formats by the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    {".npy": np.save, ".png": save}.get(file.suffix.lower(), tifffile.imwrite)(file, scores)
    return file


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "uint16", "int16", "int32", ">f4"])
@pytest.mark.parametrize("name", ["a.tiff", "a.tif", "a.TIFF", "a.npy"])
def test_a_map_is_read_as_it_is(tmp_path: Path, name: str, dtype: str) -> None:
    scores = (10 * np.abs(MAP)).astype(dtype)
    read = read_map(write(tmp_path / name, scores))
    assert read.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(read, scores)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_png_is_a_map(tmp_path: Path, dtype: str) -> None:
    scores = np.linspace(0, np.iinfo(dtype).max, 48).reshape(6, 8).astype(dtype)
    read = read_map(write(tmp_path / "a.png", scores))
    assert np.array_equal(read, scores)
    assert read.max() == np.iinfo(dtype).max


@pytest.mark.parametrize("scores", [MAP, 1e-9 * MAP, 1e9 + MAP, np.zeros((2, 3)), np.full((2, 3), -7.25)])
def test_a_png_of_16_bits_keeps_scores_to_half_a_step(tmp_path: Path, scores: np.ndarray) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        write_png16(file, scores.astype(np.float32))
    wanted = scores.astype(np.float32).astype(np.float64)
    with Image.open(tmp_path / "a.png") as image:  # what any other program sees
        values, chunks = np.asarray(image).astype(np.float64), image.text
    assert np.ptp(values) == (65535 if np.ptp(wanted) else 0)
    assert np.array_equal(
        read_map(tmp_path / "a.png"), float(chunks["score_offset"]) + float(chunks["score_scale"]) * values
    )
    assert np.abs(read_map(tmp_path / "a.png") - wanted).max() <= np.ptp(wanted) / 65535 / 2 * (1 + 1e-9)


def test_compressed_and_tiled_tiff_is_read(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", scores, compression="zlib", tile=(16, 16))
    assert np.array_equal(read_map(tmp_path / "a.tiff"), scores)


def test_written_maps_keep_every_bit_for_others_too(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)  # three columns are no colours
    write_map(tmp_path / "a.tiff", scores)
    assert np.array_equal(read_map(tmp_path / "a.tiff"), scores)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.tiff")), scores)
    assert tifffile.imread(tmp_path / "a.tiff").dtype == np.float32


def truncated(file: Path, scores: np.ndarray, share: float) -> None:
    write(file, scores)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


RGB = np.zeros((6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "damage", "line"),
    [
        ("a.tiff", lambda f: f.write_bytes(b"nothing"), "cannot be read as an anomaly map: "),
        ("a.tiff", lambda f: truncated(f, MAP, 0.8), "cannot be read as an anomaly map: "),
        ("a.npy", lambda f: truncated(f, MAP, 0.8), "cannot be read as an anomaly map: "),
        ("a.npy", lambda f: f.write_bytes(b""), "cannot be read as an anomaly map: "),
        ("a.npy", lambda f: np.save(f, np.array([{}])), "cannot be read as an anomaly map: Object arrays"),
        ("a.png", lambda f: truncated(f, grey(3, 64), 0.5), "cannot be read as an anomaly map: "),
        ("a.tiff", lambda f: tifffile.imwrite(f, np.zeros((4, 6, 8)), photometric="minisblack"), "holds 4 pages; one "),
        ("a.tiff", lambda f: tifffile.imwrite(f, RGB, photometric="rgb"), "is a picture (RGB), not scores"),
        ("a.tiff", lambda f: Image.fromarray(RGB).quantize(4).save(f), "is a picture (PALETTE), not scores"),
        ("a.png", lambda f: save(f, RGB), "is a picture (RGB), not scores; grey with 8 or 16 bits is read"),
        ("a.png", lambda f: Image.fromarray(RGB).quantize(4).save(f), "is a picture (P), not scores"),
        ("a.npy", lambda f: np.save(f, MAP[None]), "has the shape [1, 6, 8]; one map [H, W] is read"),
        ("a.npy", lambda f: np.save(f, MAP[:0]), "has the shape [0, 8]; one map [H, W] is read"),
        ("a.npy", lambda f: np.save(f, MAP + 1j), "holds values of type complex128; integers or "),
        ("a.npy", lambda f: np.save(f, MAP > 0), "holds values of type bool; integers or "),
        ("a.npy", lambda f: np.save(f, np.where(MAP > 4.9, np.nan, MAP)), "score nan at row 5, column 7; every "),
        ("a.tiff", lambda f: tifffile.imwrite(f, np.where(MAP > 4.9, np.inf, MAP)), "score inf at row 5, column 7; "),
    ],
)  # fmt: skip
def test_what_is_no_map_is_named(tmp_path: Path, name: str, damage: Damage, line: str) -> None:
    damage(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read_map(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {line}")


def test_rows_of_a_file_are_read_one_by_one(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(7, 6, 8)).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    rows = open_stored_maps(tmp_path / "maps.npy")
    assert len(rows) == 7
    assert all(np.array_equal(row, one) for row, one in zip(rows, maps, strict=True))
    assert np.array_equal(rows[-1], maps[-1])
    assert type(rows[3]) is np.ndarray  # not a view of a memory map
    (tmp_path / "bytes").write_bytes(bytes(5) + bytes(range(12)))
    offset = lazy_rows(np.memmap(tmp_path / "bytes", np.uint8, "r", 5, (3, 4)))
    assert [list(row) for row in offset] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda f: truncated(f, np.zeros((4, 6, 8)), 0.9), "cannot be read: "),
        (lambda f: f.write_bytes(b""), "cannot be read: "),
        (lambda f: np.save(f, np.zeros((6, 8))), "holds no maps [N, H, W] in rows, but (6, 8)"),
        (lambda f: np.save(f, np.zeros((4, 6, 8)).T), "holds no maps [N, H, W] in rows, but (8, 6, 4)"),
    ],
)  # fmt: skip
def test_a_file_without_maps_of_a_run_is_named(tmp_path: Path, damage: Damage, line: str) -> None:
    damage(tmp_path / "maps.npy")
    with pytest.raises(UserError) as caught:
        open_stored_maps(tmp_path / "maps.npy")
    assert str(caught.value).startswith(f"{tmp_path / 'maps.npy'}: {line}")


def test_a_mask_of_another_size_is_an_error_or_resized_as_runs_do(tmp_path: Path) -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:31, 7] = 1
    file = save(tmp_path / "000_mask.png", mask)
    assert np.array_equal(read_marks_for(file, (40, 30), resize=False), mask > 0)
    assert np.array_equal(read_marks_for(file, (40, 30), resize=True), mask > 0)  # not square, and nothing to resize
    with pytest.raises(UserError, match=r"000_mask.png: the mask has 30 x 40 pixels, its map 16 x 8 \(--resize-masks "):
        read_marks_for(file, (8, 16), resize=False)
    with pytest.raises(UserError, match=r"its map 16 x 8; masks are resized to square maps only"):
        read_marks_for(file, (8, 16), resize=True)
    assert np.array_equal(read_marks_for(file, (16, 16), resize=True), resize_mask(mask > 0, 16))
    assert resize_mask(mask > 0, 16).any()
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"000_mask.png: cannot be read as an image"):
        read_marks_for(file, (8, 8), resize=False)


def test_a_sequence_asks_once_for_each_item_and_ends() -> None:
    asked: list[int] = []
    items = LazySequence(3, lambda i: asked.append(i) or np.array(i))  # type: ignore[func-returns-value]
    assert [int(item) for item in items] == asked == [0, 1, 2]
    with pytest.raises(IndexError):
        items[3]
