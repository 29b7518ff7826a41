"""Small folders of images in the layouts that the data sets read."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_images import grey, save, square


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """mvtec/screw with 4 train, 2 good and 3 defective images of two kinds; grey values number them."""
    base = tmp_path / "mvtec" / "screw"
    for i in range(4):
        save(base / f"train/good/{i:03}.png", grey(i))
    for i in range(2):
        save(base / f"test/good/{i:03}.png", grey(10 + i))
    for i, (kind, name) in enumerate((("bent", "000"), ("bent", "001"), ("cut", "000"))):
        save(base / f"test/{kind}/{name}.png", grey(20 + i))
        save(base / f"ground_truth/{kind}/{name}_mask.png", square())
    return base


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """mtd with 10 free tiles and 2 of each defect; the first mask of Uneven is empty."""
    root = tmp_path / "mtd"
    for kind, count in {"Free": 10, "Blowhole": 2, "Break": 2, "Crack": 2, "Fray": 2, "Uneven": 2}.items():
        for i in range(count):
            base = root / f"MT_{kind}" / "Imgs" / f"exp{i}_num_{kind}"
            save(base.with_suffix(".jpg"), grey(100))
            empty = kind == "Free" or (kind == "Uneven" and i == 0)
            save(base.with_suffix(".png"), grey(0) if empty else square())
    return root


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file may grow beyond 100 kB: what a full disk does to a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
