"""CPU seconds that the plan of a large sweep costs: 1,005 runs over 15 generated categories.

    python scripts/benchmark_plan.py [RUNS_EACH]

The images are made in a temporary folder, and planned once before, so that their checksums are known.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from anomaly_bench.datasets.mvtec import Category
from anomaly_bench.paths import cache_at
from anomaly_bench.sweeps.plan import plan, summary

FOLDERS = {"train/good": 8, "test/good": 3, "test/cut": 3}


def make_images(root: Path) -> None:
    """A small MVTec AD of noise."""
    for c, category in enumerate(get_args(Category)):
        for f, (folder, count) in enumerate(FOLDERS.items()):
            for i in range(count):
                pixels = np.random.default_rng([c, f, i]).integers(0, 255, (32, 32, 3), dtype=np.uint8)
                save(root / category / folder / f"{i:03}.png", pixels)
                if folder == "test/cut":
                    save(root / category / "ground_truth" / "cut" / f"{i:03}_mask.png", pixels[..., 0] // 128)


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def main() -> None:
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 67
    with tempfile.TemporaryDirectory() as folder, cache_at(Path(folder) / "cache"):
        os.chdir(folder)
        make_images(Path("mvtec"))
        time.sleep(3)  # checksums of files that were just written are not kept
        fixed = ["method=rd", "method.weights=random", "dataset=mvtec/all", "dataset.root=mvtec", "hardware=cpu"]
        plan([*fixed, "seed=0"])
        before = time.process_time()
        jobs = plan([*fixed, f"seed=range({each})"])
        print(f"{summary(jobs)}; {time.process_time() - before:.1f} CPU s")


if __name__ == "__main__":
    main()
