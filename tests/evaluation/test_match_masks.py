"""Which mask belongs to which map."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from small_images import grey, save, square

from anomaly_bench.errors import UserError
from anomaly_bench.evaluation.match_masks import Pair, match


def write(file: Path, scores: np.ndarray) -> Path:
    """Any of the formats by the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    {".npy": np.save, ".png": save}.get(file.suffix.lower(), tifffile.imwrite)(file, scores)
    return file


REMOVE, ONLY = " (remove one of them)", "only when it is complete)"
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


@pytest.mark.parametrize(
    "masks",
    [
        *("{kind}/{name}.png", "{kind}/{name}_mask.png", "screw/{kind}/{name}.png", "{kind}/{name}_GT.bmp"),
        *("masks/{kind}/{name}_label.tif", "screw/masks/{kind}/{name}.gif", "ground_truth/{kind}/{name}_Mask.TIFF"),
    ],
)
def test_masks_without_the_usual_folders_and_ends(tmp_path: Path, masks: str) -> None:
    for kind, name in IMAGES[2:]:
        save(tmp_path / "truth" / masks.format(kind=kind, name=name), square())
    maps = put(tmp_path / "screw", "{kind}/{name}.npy")
    found = match(maps, tmp_path / "truth")["screw"]
    assert sum(pair.mask is not None for pair in found) == 3


@pytest.mark.filterwarnings("ignore:.* x test image beside its map")
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
         "{m}/test/cut/001.npy: has no mask; looked for 001_mask, _gt or _label, or 001 among the masks of 'cut'"),
        (lambda m, d: (m / "test/cut/001.npy").unlink(), "{d}/ground_truth/cut/001_mask.png: has no map (a set of m"),
        (lambda m, d: shutil.rmtree(m / "test/cut"), "{d}/ground_truth/cut/000_mask.png: has no map, nor have 1 ot"),
        (lambda m, d: shutil.rmtree(d / "ground_truth/cut"), "{m}/test/cut/000.npy: has no mask; "),
        (lambda m, d: write(m / "test/cut/000.tiff", grey(0)), "{m}/test/cut/000.tiff: and 000.npy are of the same im"),
        (lambda m, d: write(m / "cut/000.tiff", grey(0)), "{m}/test/cut/000.npy: and 000.tiff are of the same image"),
        (lambda m, d: write(m / "test/cut/000.png", grey(0)), "{m}/test/cut/000.png: and 000.npy are of the same im"),
        (lambda m, d: write(m / "test/good/x.png/1.npy", grey(0)), "{m}/test/good/x.png: is no file of numbers: fold"),
        (lambda m, d: os.mkfifo(m / "test/good/x.tif"), "{m}/test/good/x.tif: is no file of numbers: no regular file"),
        (lambda m, d: (m / "test/good/x.npy").symlink_to("?"), "{m}/test/good/x.npy: is no file of numbers: dangling "),
        (lambda m, d: save(d / "ground_truth/cut/000_gt.bmp", square()),
         "{d}/ground_truth/cut/000_mask.png: and {d}/ground_truth/cut/000_gt.bmp are masks of the same image"),
        (lambda m, d: (d / "ground_truth/cut/001_mask.png").rename(d / "ground_truth/cut/001_mask.jpg"),
         "{m}/test/cut/001.npy: has no mask; looked for 001_mask, _gt or _label, or 001 among the masks of 'cut' "
         "({d}: not used: 1 x unknown extension (ground_truth/cut/001_mask.jpg))"),
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


def test_a_png_beside_maps_of_another_format_is_a_map_too(tmp_path: Path, truth: Path) -> None:
    maps = put(tmp_path / "maps", "test/{kind}/{name}.npy")
    (maps / "test/good/001.npy").unlink()
    write(maps / "test/good/001.png", grey(9))
    found = match(maps, truth / "screw")["maps"]
    assert [pair.map.name for pair in found if pair.kind == "good"] == ["000.npy", "001.png"]


def test_images_of_a_data_set_beside_their_maps_are_counted(tmp_path: Path, truth: Path) -> None:
    put(truth, "{category}/test/{kind}/{name}.tiff")
    line = rf"{truth / 'screw'}: not used: 5 x test image beside its map \(test/bent/7.png, .*, ...\)$"
    with pytest.warns(UserWarning, match=line):
        match(truth / "screw", truth / "screw")
    (truth / "screw/test/good/001.tiff").unlink()
    assert said(truth / "screw", truth).startswith(f"{truth / 'screw/test/good/001.png'}: has no map beside it, and ")


def test_files_of_another_format_are_counted(tmp_path: Path, truth: Path) -> None:
    maps = put(tmp_path / "maps", "screw/test/{kind}/{name}.npy")
    (maps / "screw/test/good/009.exr").touch()
    (maps / "screw/notes.txt").touch()  # not where maps lie
    (truth / "screw/ground_truth/cut/notes.txt").touch()
    with pytest.warns(UserWarning, match="unknown extension") as caught:
        match(maps, truth)
    assert [str(warning.message) for warning in caught] == [
        f"{maps}: not used: 1 x unknown extension (screw/test/good/009.exr)",
        f"{truth}: not used: 1 x unknown extension (screw/ground_truth/cut/notes.txt)",
    ]


def test_links_are_followed_and_may_run_in_a_circle(tmp_path: Path, truth: Path) -> None:
    maps = put(tmp_path / "elsewhere", "{kind}/{name}.npy")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "screw").symlink_to(maps)
    assert len(match(tmp_path / "maps", truth)["screw"]) == 5
    (truth / "screw" / "again").symlink_to(truth)
    assert "lies at no known place" in said(tmp_path / "maps", truth)


@pytest.mark.parametrize("layout", ["pins/test/{kind}", "pins/{kind}", "{kind}"])
@pytest.mark.parametrize("truth", ["data", "data/pins", "data/pins/ground_truth"])
def test_several_masks_of_one_image_lie_in_a_folder_of_its_name(tmp_path: Path, layout: str, truth: str) -> None:
    base = tmp_path / "data/pins/ground_truth/cut"
    for name in ("000/000.png", "000/001.png", "0.1/000.png", "7_mask.png"):
        save(base / name, square())
    maps = tmp_path / "maps/pins"
    for name in ("cut/000.npy", "cut/0.1.npy", "cut/7.npy", "good/000.npy"):
        write(maps / layout.format(kind=name.split("/")[0]) / name.split("/")[1], grey(0))
    found = match(maps, tmp_path / truth)["pins"]
    assert [(p.map.stem, [str(m.relative_to(base)) for m in p.mask_files]) for p in found] == [
        ("0.1", ["0.1/000.png"]),
        ("000", ["000/000.png", "000/001.png"]),
        ("7", ["7_mask.png"]),
        ("000", []),
    ]
    save(base / "7/000.png", square())
    assert (
        said(maps, tmp_path / truth) == f"{base / '7'}: and {base / '7_mask.png'} are masks of the same image" + REMOVE
    )


def test_masks_of_an_image_that_has_no_map(tmp_path: Path) -> None:
    base = tmp_path / "pins/ground_truth/cut"
    for name in ("000", "001"):
        save(base / name / "000.png", square())
    write(tmp_path / "maps/cut/000.npy", grey(0))
    assert said(tmp_path / "maps", tmp_path / "pins") == f"{base / '001'}: has no map (a set of maps is measured {ONLY}"
    write(tmp_path / "maps/cut/001.npy", grey(0))
    write(tmp_path / "maps/cut/002.npy", grey(0))
    assert said(tmp_path / "maps", tmp_path / "pins").startswith(f"{tmp_path / 'maps/cut/002.npy'}: has no mask; ")
