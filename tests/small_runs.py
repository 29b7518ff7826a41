"""Runs that take a second: a data set of 22 images, the toy method, the environment of a child process."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from anomaly_bench.runs.folder import RunFolder

if TYPE_CHECKING:
    from forks import Forked

ROOT = Path(__file__).parents[1]
TOYS = Path(__file__).parent / "toys"
TOY = ["--config-dir", str(TOYS / "conf"), "method=toy", "dataset=folder", "hardware=cpu"]
QUICK = ["save_heatmaps=false", "resamples=0"]  # where a run is only the means
FILES = {  # of a finished run
    *("manifest.json", "config.yaml", "overrides.txt", "metrics.json", "scores.csv", "maps.npy", "heatmaps"),
    *("weights.safetensors", "log.txt", "training.csv", "curves.json", "images.csv"),
}
Bench = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixtures of conftest.py
Begin = Callable[..., "Forked"]
Train = Callable[..., RunFolder]
Noted = Callable[[str], list[dict[str, Any]]]


def environment(**more: str) -> dict[str, str]:
    """For a child process: it finds the package and the toys, reaches no accelerator and uses one thread."""
    paths = os.pathsep.join([str(ROOT), str(TOYS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return (
        os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | more
    )


def make_images(root: Path, side: int = 32) -> Path:
    """train/good with 12 noisy grey images, test/good with 4, test/hole and test/line with 3 each, and their masks."""
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 12), ("test/good", 4), ("test/hole", 3), ("test/line", 3)):
        for i in range(count):
            image, mask = rng.integers(90, 130, (side, side, 3), dtype=np.uint8), np.zeros((side, side), np.uint8)
            if place.endswith("hole"):
                mask[4 + i : 14 + i, 6:16] = 255
            if place.endswith("line"):
                mask[:, 8 * i + 3 : 8 * i + 6] = 255
            image[mask > 0] = 220 + i
            save(root / place / f"{i:03}.png", image)
            if mask.any():
                save(root / place.replace("test", "ground_truth") / f"{i:03}_mask.png", mask)
    return root


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def curve(folder: RunFolder) -> list[tuple[str, int]]:
    """(stage, epoch) of each row of training.csv."""
    with (folder.path / "training.csv").open(newline="") as file:
        return [(row["stage"], int(row["epoch"])) for row in csv.DictReader(file)]


def equal(one: RunFolder, other: RunFolder) -> bool:
    """Metrics, scores and maps, to the bit."""
    assert one.maps is not None
    assert other.maps is not None
    return one.metrics == other.metrics and one.scores == other.scores and np.array_equal(one.maps, other.maps)


def contents(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}
