"""Shared by the tests of the command line and of runs: a small data set, toy methods, `bench` in this process and in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
TOYS = Path(__file__).parent / "toys"
TOY_CONF = ["--config-dir", str(TOYS / "conf")]
Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**more: str) -> dict[str, str]:
    """For a child process: it finds the package and the toys, reaches no accelerator and uses one thread."""
    paths = os.pathsep.join([str(ROOT), str(TOYS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | more


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


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches go to a temporary folder, the toys can be imported, and no setting of the user's reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BENCH_CONF", raising=False)
        patch.syspath_prepend(str(TOYS))
        yield


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A small data set of the test's own, to be damaged at will."""
    return make_images(tmp_path / "widgets")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for resnet18: nothing is downloaded."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.tv_in1k.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), file)
    return file


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """bench("train", ..., cwd=..., env={...}): the real command in a process of its own, below `tmp_path`."""

    def call(*words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anomaly_bench", *words]
        return subprocess.run(
            command, cwd=cwd or tmp_path, env=environment(**env or {}), capture_output=True, text=True, timeout=120
        )

    return call
