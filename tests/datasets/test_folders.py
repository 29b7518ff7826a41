from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from small_images import grey, save, square

from anomaly_bench.contracts import Record
from anomaly_bench.datasets.folder import Folder
from anomaly_bench.datasets.mtd import MTD
from anomaly_bench.datasets.mvtec import MVTec
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_files import data_root, fingerprint

needs_data = pytest.mark.skipif("ANOMALY_BENCH_DATA" not in os.environ, reason="$ANOMALY_BENCH_DATA is not set")


def kinds(records: list[Record]) -> dict[str, int]:
    return dict(Counter(record.kind for record in records))


def folder(root: Path | str | None, share: float = 0.2, seed: int = 0, bad: str = "bad") -> Folder:
    return Folder(None if root is None else str(root), "good", bad, share, seed, None)


# --- where a data set is looked for


def test_the_places_of_a_data_set(category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "data" / "mvtec"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANOMALY_BENCH_DATA", raising=False)
    with pytest.raises(UserError, match=r"dataset.root: no such folder: data/mvtec .*bench data prepare mvtec"):
        data_root(None, "mvtec", "screw")
    shutil.copytree(category.parent, here)
    assert data_root(None, "mvtec", "screw") == Path("data/mvtec")
    monkeypatch.setenv("ANOMALY_BENCH_DATA", str(tmp_path))
    assert data_root(None, "mvtec", "screw") == tmp_path / "mvtec"
    assert data_root("data", "mvtec", "screw") == Path("data/mvtec")
    assert data_root(str(here), "mvtec", "screw") == here


def test_a_place_without_the_category_says_what_it_holds(category: Path) -> None:
    with pytest.raises(UserError, match=rf"no folder 'bottle' in {category.parent}; {category.parent} holds screw"):
        MVTec("bottle", str(category.parent)).records("train")
    with pytest.raises(UserError, match=r"no such folder: /nowhere or /nowhere/mvtec"):
        MVTec("bottle", "/nowhere").records("train")


# --- train / test / ground_truth


def test_mvtec(category: Path) -> None:
    data = MVTec("screw", str(category.parent))
    train, test = data.records("train"), data.records("test")
    assert [r.path for r in train] == [f"screw/train/good/00{i}.png" for i in range(4)]
    assert kinds(test) == {"bent": 2, "cut": 1, "good": 2}
    assert all((r.mask is None) == (r.label == 0) for r in test)
    assert test[0] == Record(
        "screw/test/bent/000.png",
        "bent",
        category / "test/bent/000.png",
        category / "ground_truth/bent/000_mask.png",
    )


def test_a_folder_in_the_same_layout(category: Path) -> None:
    own, known = folder(category).records("test"), MVTec("screw", str(category.parent)).records("test")
    assert [f"screw/{r.path}" for r in own] == [r.path for r in known]
    assert [r.mask for r in own] == [r.mask for r in known]


def test_suffixes_in_any_case_are_read_and_hidden_files_are_not(category: Path) -> None:
    train = category / "train" / "good"
    save(train / "UPPER.PNG", grey(1))
    save(train / "photo.JPeG", grey(1))
    save(train / ".hidden.png", grey(1))
    (category / "test" / ".cache").mkdir()
    names = [Path(r.path).name for r in folder(category).records("train")]
    assert names == ["000.png", "001.png", "002.png", "003.png", "UPPER.PNG", "photo.JPeG"]
    assert len(folder(category).records("test")) == 5


def test_a_mask_may_have_the_name_of_its_image(category: Path) -> None:
    masks = category / "ground_truth" / "cut"
    (masks / "000_mask.png").rename(masks / "000.png")
    assert folder(category).records("test")[2].mask == masks / "000.png"


def test_a_missing_mask_is_named_with_the_places(category: Path) -> None:
    (category / "ground_truth" / "cut" / "000_mask.png").unlink()
    with pytest.raises(
        UserError, match=r"test/cut/000.png: has no mask; looked for 000_mask, _gt or _label, .* in .*ground_truth/cut"
    ):
        folder(category).records("test")


def test_without_ground_truth_there_are_no_masks(category: Path, tmp_path: Path) -> None:
    shutil.rmtree(category / "ground_truth")
    records = folder(category).records("test")
    assert [r.mask for r in records] == [None] * 5
    assert [sample["label"] for sample in ImageSet(records, 8, tmp_path / "c")] == [1, 1, 1, 0, 0]


def test_a_test_without_good_or_without_defective_images_is_allowed(category: Path) -> None:
    shutil.rmtree(category / "ground_truth")
    shutil.rmtree(category / "test" / "good")
    assert kinds(folder(category).records("test")) == {"bent": 2, "cut": 1}
    save(category / "test" / "good" / "0.png", grey(0))
    for kind in ("bent", "cut"):
        shutil.rmtree(category / "test" / kind)
    assert kinds(folder(category).records("test")) == {"good": 1}


def test_missing_and_empty_folders_are_named(category: Path) -> None:
    for image in (category / "test" / "cut").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"test/cut: holds no image"):
        folder(category).records("test")
    shutil.rmtree(category / "test")
    with pytest.raises(UserError, match=r"test: no test images: folders test/good and test/<defect> are needed"):
        folder(category).records("test")
    for image in (category / "train" / "good").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"train/good: holds no image \(.png, .jpg"):
        folder(category).records("train")
    (category / "train" / "good").rmdir()
    with pytest.raises(UserError, match=r"screw/train/good: no such folder"):
        MVTec("screw", str(category.parent)).records("train")


def test_a_folder_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.root: is not given .*dataset.root=DIR"):
        folder(None).records("train")
    with pytest.raises(UserError, match=r"dataset.root: no such folder: .*nowhere"):
        folder(tmp_path / "nowhere").records("train")
    with pytest.raises(UserError, match=r"neither train/good and test/<kind> nor good and bad"):
        folder(tmp_path).records("train")


# --- two flat folders


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for i in range(10):
        save(tmp_path / "flat" / "good" / f"{i}.png", grey(i))
    for i in range(3):
        save(tmp_path / "flat" / "rust" / f"{i}.bmp", grey(i))
    return tmp_path / "flat"


def test_a_share_of_the_good_images_is_kept_for_the_test(flat: Path) -> None:
    data = folder(flat, share=0.3, bad="rust")
    train, test = data.records("train"), data.records("test")
    assert kinds(test) == {"good": 3, "rust": 3}
    good = [r.path for r in train] + [r.path for r in test if not r.label]
    assert sorted(good) == [f"good/{i}.png" for i in range(10)]
    assert train == folder(flat, share=0.3, bad="rust").records("train")
    assert train != folder(flat, share=0.3, seed=1, bad="rust").records("train")
    assert len(folder(flat, share=0.01, bad="rust").records("train")) == 9


def test_flat_folders_may_have_masks(flat: Path) -> None:
    for i in range(3):
        save(flat / "ground_truth" / "rust" / f"{i}.png", square())
    assert all(r.mask for r in folder(flat, bad="rust").records("test") if r.label)
    (flat / "ground_truth" / "rust" / "1.png").unlink()
    with pytest.raises(UserError, match=r"rust/1.bmp: has no mask"):
        folder(flat, bad="rust").records("test")


def test_flat_folders_that_are_not_enough(flat: Path) -> None:
    with pytest.raises(UserError, match=r"nor good and scratches .*dataset.bad_dir="):
        folder(flat, bad="scratches").records("train")
    for i in range(1, 10):
        (flat / "good" / f"{i}.png").unlink()
    with pytest.raises(UserError, match=r"dataset.test_share: .* none of the 1 good images"):
        folder(flat, bad="rust").records("train")


# --- magnetic tiles


def mtd(root: Path, split_file: Path | None = None, seed: int = 0) -> MTD:
    return MTD(str(root), None if split_file is None else str(split_file), 0.8, seed)


def test_mtd(tiles: Path) -> None:
    train, test = mtd(tiles).records("train"), mtd(tiles).records("test")
    assert len(train) == 8
    assert kinds(test) == {"good": 2, "blowhole": 2, "break": 2, "crack": 2, "fray": 2, "uneven": 2}
    assert not {r.path for r in train} & {r.path for r in test}
    assert all(r.mask == r.image.with_suffix(".png") for r in test if r.label)
    assert all(r.mask is None for r in test if not r.label)
    assert train == mtd(tiles.parent).records("train")
    assert train != mtd(tiles, seed=1).records("train")


def test_mtd_with_a_published_split(tiles: Path) -> None:
    names = tiles / "names.txt"
    names.write_text("exp3_num_Free.jpg\n\nexp0_num_Free.jpg\r\n")
    train, test = mtd(tiles, names).records("train"), mtd(tiles, names).records("test")
    assert [r.path for r in train] == ["MT_Free/Imgs/exp0_num_Free.jpg", "MT_Free/Imgs/exp3_num_Free.jpg"]
    assert kinds(test)["good"] == 8
    names.write_text("exp0_num_Free.jpg\nexp77_num_Free.jpg\nother.jpg\n")
    with pytest.raises(UserError, match=r"2 of 3 names .* the first is 'exp77_num_Free.jpg' \(did you mean"):
        mtd(tiles, names).records("train")
    names.write_text("")
    with pytest.raises(UserError, match=r"none of the 10 free tiles"):
        mtd(tiles, names).records("train")
    with pytest.raises(UserError, match=r"dataset.split_file: .*absent.txt cannot be read"):
        mtd(tiles, tiles / "absent.txt").records("train")


def test_an_empty_mask_of_mtd_stays_anomalous(tiles: Path, tmp_path: Path) -> None:
    records = mtd(tiles).records("test")
    with pytest.warns(UserWarning, match=r"1 of 10 defective images have an empty mask \(first: MT_Uneven"):
        images = ImageSet(records, 8, tmp_path / "c")
    assert sum(sample["label"] for sample in images) == 10


def test_what_is_missing_in_mtd_is_named(tiles: Path) -> None:
    (tiles / "MT_Fray" / "Imgs" / "exp1_num_Fray.png").unlink()
    with pytest.raises(UserError, match=r"exp1_num_Fray.jpg: has no mask exp1_num_Fray.png"):
        mtd(tiles).records("test")
    shutil.rmtree(tiles / "MT_Crack")
    with pytest.raises(UserError, match=r"MT_Crack/Imgs: no such folder"):
        mtd(tiles).records("test")


# --- the real images


@pytest.mark.realdata
@needs_data
@pytest.mark.filterwarnings("error")
def test_the_real_screws(tmp_path: Path) -> None:
    data = MVTec("screw", None)
    train, test = data.records("train"), data.records("test")
    assert len(train) == 320
    assert kinds(test) == {
        "good": 41,
        "manipulated_front": 24,
        "scratch_head": 24,
        "scratch_neck": 25,
        "thread_side": 23,
        "thread_top": 23,
    }
    masked = [bool(sample["mask"].any()) for sample in ImageSet(test, 128, tmp_path)]
    assert masked == [bool(record.label) for record in test]  # no defect is lost at a low resolution


@pytest.mark.realdata
@needs_data
@pytest.mark.filterwarnings("error")
def test_the_real_tiles() -> None:
    data = MTD(None, None, 0.8, 0)
    assert len(data.records("train")) == 761
    assert kinds(data.records("test")) == {
        "good": 191,
        "blowhole": 115,
        "break": 85,
        "crack": 57,
        "fray": 32,
        "uneven": 103,
    }
    assert fingerprint(data.records("train")) != fingerprint(MTD(None, None, 0.8, 1).records("train"))
