"""Maps in files, and which mask belongs to which map."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_images import grey, save, square

from anomaly_bench.data.decode import resize_mask
from anomaly_bench.data.maps import OneByOne, read_map, read_mask_for, rows_of, stored_maps, write_map
from anomaly_bench.data.pairs import Pair, match
from anomaly_bench.errors import UserError

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
    rows = stored_maps(tmp_path / "maps.npy")
    assert len(rows) == 7
    assert all(np.array_equal(row, one) for row, one in zip(rows, maps, strict=True))
    assert np.array_equal(rows[-1], maps[-1])
    assert type(rows[3]) is np.ndarray  # not a view of a memory map
    (tmp_path / "bytes").write_bytes(bytes(5) + bytes(range(12)))
    offset = rows_of(np.memmap(tmp_path / "bytes", np.uint8, "r", 5, (3, 4)))
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
        stored_maps(tmp_path / "maps.npy")
    assert str(caught.value).startswith(f"{tmp_path / 'maps.npy'}: {line}")


def test_a_mask_of_another_size_is_an_error_or_resized_as_runs_do(tmp_path: Path) -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:31, 7] = 1
    file = save(tmp_path / "000_mask.png", mask)
    assert np.array_equal(read_mask_for(file, (40, 30), resize=False), mask > 0)
    assert np.array_equal(read_mask_for(file, (40, 30), resize=True), mask > 0)  # not square, and nothing to resize
    with pytest.raises(UserError, match=r"000_mask.png: the mask has 30 x 40 pixels, its map 16 x 8 \(--resize-masks "):
        read_mask_for(file, (8, 16), resize=False)
    with pytest.raises(UserError, match=r"its map 16 x 8; masks are resized to square maps only"):
        read_mask_for(file, (8, 16), resize=True)
    assert np.array_equal(read_mask_for(file, (16, 16), resize=True), resize_mask(mask > 0, 16))
    assert resize_mask(mask > 0, 16).any()
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"000_mask.png: cannot be read as an image"):
        read_mask_for(file, (8, 8), resize=False)


def test_a_sequence_asks_once_for_each_item_and_ends() -> None:
    asked: list[int] = []
    items = OneByOne(3, lambda i: asked.append(i) or np.array(i))  # type: ignore[func-returns-value]
    assert [int(item) for item in items] == asked == [0, 1, 2]
    with pytest.raises(IndexError):
        items[3]


IMAGES = [("good", "000"), ("good", "001"), ("cut", "000"), ("cut", "001"), ("bent", "7")]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two categories of a data set, with images beside the masks."""
    for category in ("screw", "bolt"):
        for kind, name in IMAGES:
            base = tmp_path / "data" / category
            save(base / f"train/good/{name}.png", grey(0))
            save(base / f"test/{kind}/{name}.png", grey(0))
            if kind != "good":
                save(base / f"ground_truth/{kind}/{name}_mask.png", square())
    return tmp_path / "data"


def put(root: Path, pattern: str, category: str = "screw") -> Path:
    """A map for each image; pattern: "{category}/test/{kind}/{name}.npy" or another."""
    for kind, name in IMAGES:
        write(root / pattern.format(category=category, kind=kind, name=name), grey(1))
    return root


def said(maps: Path, masks: Path) -> str:
    with pytest.raises(UserError) as caught:
        match(maps, masks)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["tiff", "tif", "npy", "png"])
@pytest.mark.parametrize("layout", ["screw/test/{kind}", "screw/{kind}", "test/{kind}", "{kind}"])
@pytest.mark.parametrize("named", ["data", "data/screw", "data/screw/ground_truth"])
def test_layouts(tmp_path: Path, truth: Path, layout: str, suffix: str, named: str) -> None:
    maps = put(tmp_path / "results" / "screw", f"{layout}/{{name}}.{suffix}")
    found = match(maps, tmp_path / named)
    assert list(found) == ["screw"]
    assert [(p.kind, p.map.name, p.mask and p.mask.parent.name) for p in found["screw"]] == [
        ("bent", f"7.{suffix}", "bent"),
        ("cut", f"000.{suffix}", "cut"),
        ("cut", f"001.{suffix}", "cut"),
        ("good", f"000.{suffix}", None),
        ("good", f"001.{suffix}", None),
    ]
    assert all(p.mask == truth / f"screw/ground_truth/{p.kind}/{p.map.stem}_mask.png" for p in found["screw"][:3])


@pytest.mark.parametrize("masks", ["{kind}/{name}.png", "{kind}/{name}_mask.png", "screw/{kind}/{name}.png"])
def test_masks_without_the_usual_folders_and_ends(tmp_path: Path, masks: str) -> None:
    for kind, name in IMAGES[2:]:
        save(tmp_path / "truth" / masks.format(kind=kind, name=name), square())
    maps = put(tmp_path / "screw", "{kind}/{name}.npy")
    found = match(maps, tmp_path / "truth")["screw"]
    assert sum(pair.mask is not None for pair in found) == 3


def test_several_categories_and_images_beside_the_maps(tmp_path: Path, truth: Path) -> None:
    for category in ("screw", "bolt"):
        put(truth, "{category}/test/{kind}/{name}.tiff", category)  # among the images
    (truth / "screw/test/cut/.hidden.tiff").touch()
    found = match(truth, truth)
    assert list(found) == ["bolt", "screw"]
    assert all(isinstance(pair, Pair) and pair.map.suffix == ".tiff" for pairs in found.values() for pair in pairs)
    shutil.rmtree(truth / "bolt/test")
    shutil.rmtree(truth / "bolt/train")
    assert list(match(truth, truth)) == ["screw"]  # masks of other categories do not disturb
    assert "screw" in match(truth / "screw/test", truth / "bolt")  # whoever names two folders means them


def test_a_category_in_png_beside_one_in_tiff_is_measured_too(tmp_path: Path, truth: Path) -> None:
    put(tmp_path / "maps", "{category}/{kind}/{name}.tiff", "screw")
    put(tmp_path / "maps", "{category}/{kind}/{name}.png", "bolt")
    assert list(match(tmp_path / "maps", truth)) == ["bolt", "screw"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda m, d: (d / "ground_truth/cut/001_mask.png").unlink(),
         "{m}/test/cut/001.npy: has no mask; looked for 001_mask.png and 001.png among the masks of 'cut'"),
        (lambda m, d: (m / "test/cut/001.npy").unlink(), "{d}/ground_truth/cut/001_mask.png: has no map (a set of m"),
        (lambda m, d: shutil.rmtree(m / "test/cut"), "{d}/ground_truth/cut/000_mask.png: has no map, nor have 1 ot"),
        (lambda m, d: shutil.rmtree(d / "ground_truth/cut"), "{m}/test/cut/000.npy: has no mask; "),
        (lambda m, d: write(m / "test/cut/000.tiff", grey(0)), "{m}/test/cut/000.tiff: and 000.npy are of the same im"),
        (lambda m, d: write(m / "cut/000.tiff", grey(0)), "{m}/test/cut/000.npy: and 000.tiff are of the same image"),
        (lambda m, d: write(m / "test/000.tif", grey(0)), "{m}/test/000.tif: has no mask; "),
        (lambda m, d: write(m / "000.npy", grey(0)), "{m}/000.npy: lies at no known place; below {m}: [<category>/]"),
        (lambda m, d: write(m / "a/b/c/0.npy", grey(0)), "{m}/a/b/c/0.npy: lies at no known place; below {m}: "),
        (lambda m, d: write(m / "nut/cut/0.npy", grey(0)), "{m}/test/bent/7.npy: lies in no category, and {m}/nut/"),
        (lambda m, d: shutil.rmtree(m), "{m}: no such folder"),
        (lambda m, d: shutil.rmtree(m / "test"), "{m}: holds nothing of the form [<category>/][test/]<kind>/<id>.t"),
        (lambda m, d: shutil.rmtree(d), "{d}: no such folder"),
        (lambda m, d: [shutil.rmtree(p) for p in d.iterdir()], "{d}: holds nothing of the form [<category>/][ground_t"),
    ],
)  # fmt: skip
def test_a_set_that_does_not_match_is_named(
    tmp_path: Path, truth: Path, damage: Callable[[Path, Path], object], line: str
) -> None:
    maps, masks = put(tmp_path / "maps", "test/{kind}/{name}.npy"), truth / "screw"
    damage(maps, masks)
    assert said(maps, masks).startswith(line.format(m=maps, d=masks))


def test_categories_that_do_not_match_are_named(tmp_path: Path, truth: Path) -> None:
    maps = put(tmp_path / "maps", "{category}/{kind}/{name}.npy", "screws")
    assert said(maps, truth) == f"{truth}: holds no masks of 'screws', only of bolt, screw (did you mean 'screw'?)"
    put(maps, "{category}/{kind}/{name}.npy", "bolt")
    assert said(maps, truth / "bolt").startswith(
        f"{truth / 'bolt'}: holds no masks of 'screws', only of bolt (--masks "
    )
    flat = put(tmp_path / "cables", "{kind}/{name}.npy")
    assert said(flat, truth).startswith(f"{truth}: holds no masks of 'cables', only of bolt, screw (--masks names ")


def test_names_that_end_in_mask_find_their_own(tmp_path: Path) -> None:
    for name in ("a", "a_mask"):
        write(tmp_path / f"maps/cut/{name}.npy", grey(0))
        save(tmp_path / f"masks/cut/{name}_mask.png", square())
    (pairs,) = match(tmp_path / "maps", tmp_path / "masks").values()
    assert [(p.map.name, p.mask and p.mask.name) for p in pairs] == [
        ("a.npy", "a_mask.png"),
        ("a_mask.npy", "a_mask_mask.png"),
    ]


def test_links_are_followed_and_may_run_in_a_circle(tmp_path: Path, truth: Path) -> None:
    maps = put(tmp_path / "elsewhere", "{kind}/{name}.npy")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "screw").symlink_to(maps)
    assert len(match(tmp_path / "maps", truth)["screw"]) == 5
    (truth / "screw" / "again").symlink_to(truth)
    assert "lies at no known place" in said(tmp_path / "maps", truth)
