from __future__ import annotations

import hashlib
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anomaly_bench.datasets import drawn, matched, textures
from anomaly_bench.datasets.demo import Demo
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.mark.parametrize(
    "category",
    [pytest.param(name, marks=pytest.mark.slow if "_matched" in name else ()) for name in textures.CATEGORIES],
)
def test_counts_sizes_and_masks(root: Path, category: str) -> None:
    data = Demo(category, str(root), 0)
    train, test = data.records("train"), data.records("test")
    assert len(train) == 40
    kinds = (matched if category.endswith("_matched") else drawn).PAINTERS
    assert Counter(r.kind for r in test) == {"good": 16, **dict.fromkeys(kinds, 6)}
    assert train[0].path == f"{category}/train/good/000.png"
    assert all(read_image(record.image).shape == (256, 256, 3) for record in train + test)
    areas = [int(read_mask(record.mask, (256, 256)).sum()) for record in test if record.mask]
    assert len(areas) == 24
    assert min(areas) > 60
    assert max(areas) < 256 * 256 / 8


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    Demo("grass", str(root), 0).records("train")
    again = textures.generate(tmp_path, "grass", 0)
    assert digest(again / "grass") == digest(root / again.name / "grass")
    assert digest(textures.generate(tmp_path, "grass", 1) / "grass") != digest(again / "grass")


@pytest.mark.parametrize("style", [drawn, matched])
@pytest.mark.parametrize("texture", ["brick", "grass", "gravel"])
def test_the_mask_is_where_the_image_was_painted(style: ModuleType, texture: str) -> None:
    rng = np.random.default_rng(7)
    clean = style.crop(getattr(textures.data, texture)(), rng, "test")
    for paint in style.PAINTERS.values():
        painted, opacity = paint(clean, rng, texture)
        assert (painted[opacity == 0] == clean[opacity == 0]).all()
        assert np.abs(painted - clean)[opacity > 0].mean() > (15 if style is drawn else 0.2 * clean.std())  # visible


@pytest.mark.parametrize("kind", sorted(matched.PAINTERS))
def test_grey_values_do_not_give_a_matched_defect_away(kind: str) -> None:
    rng = np.random.default_rng(3)
    for texture in ("brick", "grass", "gravel"):
        clean = matched.crop(getattr(textures.data, texture)(), rng, "test")
        painted, opacity = matched.PAINTERS[kind](clean, rng, texture)
        before, after = clean[opacity > 0], painted[opacity > 0]
        assert after.mean() == pytest.approx(before.mean(), abs=0.01)  # grey levels
        assert after.std() == pytest.approx(before.std(), rel=0.1)  # less along the soft edge


def test_train_and_test_come_from_disjoint_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photo = np.zeros((512, 512), np.uint8)
    photo[:, drawn.SPLIT :] = 200  # a photograph that tells its parts apart
    monkeypatch.setattr(textures.data, "brick", lambda: photo)
    base = textures.generate(tmp_path, "brick", 0) / "brick"
    assert all(read_image(path).max() == 0 for path in (base / "train" / "good").iterdir())
    assert all(read_image(path).min() >= 186 for path in (base / "test" / "good").iterdir())


def test_matched_train_and_test_crops_share_no_pixel_and_come_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matched, "light", lambda image, rng: image)
    rng, size = np.random.default_rng(0), matched.FIELD
    for split, colour in (("train", 0), ("test", 1)):
        seen = set()
        for y in range(4):
            for x in range(4):
                photo = np.zeros((512, 512), np.uint8)
                photo[y * size : (y + 1) * size, x * size : (x + 1) * size] = 200
                levels = {value for _ in range(40) for value in np.unique(matched.crop(photo, rng, split)).tolist()}
                assert levels <= {0, 200}  # a crop lies within one field
                seen |= {(y, x)} if 200 in levels else set()
        assert seen == {(y, x) for y in range(4) for x in range(4) if (y + x) % 2 == colour}


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert textures.generate(tmp_path, "gravel", 3).is_dir()


def test_the_default_place_and_one_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        lists = list(pool.map(lambda _: Demo("brick", None, 5).records("train"), range(3)))
    assert lists[0] == lists[1] == lists[2]
    (folder,) = (tmp_path / "demo").iterdir()
    assert [path.name for path in folder.iterdir()] == ["brick"]  # nothing half-written is left
    before = digest(folder)
    Demo("brick", None, 5).records("test")
    assert digest(folder) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"dataset.root: cannot write the demo images to .*file.*Not a directory"):
        Demo("brick", str(tmp_path / "file"), 0).records("train")
