"""The recipes of CONTRIBUTING.md, followed to the letter by someone whose files lie outside the package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from small_runs import ROOT, Bench, make_images

from anomaly_bench.store import find

BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A folder with the files of CONTRIBUTING.md, and images as its data set wants them: side by side, no masks."""
    home = tmp_path / "someone"
    for name, text in BLOCKS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    (home / "photos").mkdir()
    for image in make_images(tmp_path / "made").glob("t*/*/*.png"):
        split, kind = image.parts[-3:-1]
        image.rename(home / "photos" / f"{split}_{kind}_{image.name}")
    return home


def test_the_recipes_are_one_file_and_one_yaml_each() -> None:
    assert len(BLOCKS) == 4
    assert sorted(Path(name).suffix for name in BLOCKS) == [".py", ".py", ".yaml", ".yaml"]
    assert {str(Path(name).parent) for name in BLOCKS} == {".", "conf/method", "conf/dataset"}


def test_a_method_and_a_data_set_from_outside_train_and_are_measured(recipe: Path, bench: Bench) -> None:
    method, dataset = (next(Path(n).stem for n in BLOCKS if n.startswith(f"conf/{g}/")) for g in ("method", "dataset"))
    words = ["--config-dir", "conf", f"method={method}", f"dataset={dataset}", "dataset.root=photos", "hardware=cpu"]
    done = bench("train", *words, cwd=recipe, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (folder,) = find(recipe / "outputs")
    assert folder.path.parent == recipe / "outputs" / method / dataset / dataset
    assert folder.status == "done"
    assert sorted(row.path for row in folder.scores) == sorted(f.name for f in (recipe / "photos").glob("test_*.png"))
    assert folder.metrics["image_auroc"] == 1  # a bright defect on dark noise
    assert not any(key.startswith("pixel") for key in folder.metrics)  # there are no masks
    assert folder.maps is not None
    assert np.isfinite(folder.maps).all()
    assert {f.name for f in folder.path.iterdir()} >= {"weights.safetensors", "heatmaps", "config.yaml", "log.txt"}


def test_its_mistakes_are_reported_like_any_other(recipe: Path, bench: Bench) -> None:
    method, dataset = (next(Path(n).stem for n in BLOCKS if n.startswith(f"conf/{g}/")) for g in ("method", "dataset"))
    words = ["--config-dir", "conf", f"method={method}", f"dataset={dataset}", "method.image_size=0", "method.x=1"]
    done = bench("train", *words, cwd=recipe, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert {line.split(": ")[1] for line in done.stderr.splitlines()} == {
        "method.x",
        "method.image_size",
        "dataset.root",
    }
