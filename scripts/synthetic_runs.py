"""Finished run folders with invented numbers, to try and to time reports on: nothing in them was measured.

python scripts/synthetic_runs.py OUTPUTS --categories 15 --methods 4 --seeds 3 --images 115 --side 256
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from anomaly_bench.metrics import measure
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.heatmaps import write_heatmaps
from anomaly_bench.runs.stored_run import ScoreRow

KINDS = ("crack", "hole", "scratch", "stain")
NORMAL = 0.35  # share of the test images
METHODS = ("rd", "csflow", "us", "glf")


def hexadecimal(*words: object) -> str:
    return f"{zlib.crc32(repr(words).encode()):08x}"


def scene(category: str, images: int, side: int) -> tuple[list[ScoreRow], np.ndarray, np.ndarray]:
    """What all runs of a category share: rows without scores, pictures [N, S, S, 3] uint8, masks [N, S, S] bool."""
    rng = np.random.default_rng(zlib.crc32(category.encode()))
    rows, masks = [], np.zeros((images, side, side), bool)
    texture = rng.integers(70, 150, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    pictures = np.clip(texture + rng.integers(-12, 12, (images, side, side, 3), dtype=np.int8), 0, 255).astype(np.uint8)
    for i in range(images):
        label = int(i >= NORMAL * images)
        kind = KINDS[i % len(KINDS)] if label else "good"
        if label:
            size = rng.integers(side // 16, side // 4, 2)
            top, left = (rng.integers(0, side - s) for s in size)
            masks[i, top : top + size[0], left : left + size[1]] = True
            pictures[i][masks[i]] = rng.integers(0, 255, 3)
        rows.append(ScoreRow(f"{category}/test/{kind}/{i:03}.png", kind, label, 0.0))
    return rows, pictures, masks


def invented(masks: np.ndarray, skill: float, rng: np.random.Generator) -> np.ndarray:
    """Maps float32 [N, S, S]: smooth noise, raised at the defects by a `skill` that varies from image to image."""
    images, side, _ = masks.shape
    coarse = rng.normal(size=(images, side // 16, side // 16)).repeat(16, 1).repeat(16, 2)
    maps = coarse + 0.2 * rng.normal(size=masks.shape)
    maps += masks * (skill * rng.gamma(4, 0.5, (images, 1, 1)))
    return maps.astype(np.float32)


def write_run(
    outputs: Path, method: str, category: str, seed: int, rows: Sequence[ScoreRow], pictures: np.ndarray,
    masks: np.ndarray, skill: float, full: bool,
) -> None:  # fmt: skip
    """A finished run; full: also measure its maps by all metrics, keep them and draw them."""
    rng, digits = (
        np.random.default_rng(zlib.crc32(f"{method} {category} {seed}".encode())),
        hexadecimal(method, category, seed),
    )
    folder = RunFolder(outputs / method / "synthetic" / category / f"s{seed}-{digits}")
    manifest = {
        "method": method, "dataset": "synthetic", "category": category, "seed": seed, "id": digits,
        "setting": hexadecimal(method), "label": method, "command": f"bench train method={method} seed={seed}",
        "versions": {"anomaly_bench": "synthetic"}, "device": "none: these numbers are invented", "git_commit": None,
        "images": {"test": len(rows)}, "parameters": {"total": 10**7, "trainable": 10**6},
        "checksums": {"data": hexadecimal(category)}, "protocol": ["invented: nothing was trained or measured"],
    }  # fmt: skip
    folder.start(
        manifest, OmegaConf.to_yaml({"seed": seed, "method": {"name": method}, "dataset": {}}), [], afresh=True
    )
    maps = invented(masks, skill, rng)
    scores = maps.max((1, 2))
    labels = np.array([row.label for row in rows])
    rows = [ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(rows, scores, strict=True)]
    found = measure(scores, labels, maps, masks, memory_mb=4096, resamples=50 if full else 0)
    folder.write_scores(rows)
    folder.write_text("curves.json", json.dumps(found.curves))
    losses = "".join(f"training,{e},{e + 1},{e},{np.exp(-e / 8) + 0.02 * rng.random():.5f}\n" for e in range(40))
    folder.write_text("training.csv", f"stage,epoch,steps,seconds,loss\n{losses}")
    if full:
        folder.write_maps(maps)
        if not seed:
            write_heatmaps(folder.path, rows, maps, lambda i: (pictures[i], masks[i]))
    cost = 100.0 * (1 + METHODS.index(method) if method in METHODS else 1)
    stages = {
        "training": {"seconds": cost, "peak_memory_mb": cost},
        "score": {"seconds": 1.0, "ms_per_image": cost / 9},
    }
    folder.update(stages=stages, measurement=found.record())
    folder.write_metrics(found.metrics)
    folder.finish()


def write_runs(
    outputs: Path, categories: int, methods: int, seeds: int, images: int, side: int, full: bool = True
) -> None:
    """One for each combination; a method's skill is its place in the list."""
    names = [METHODS[i] if i < len(METHODS) else f"method{i}" for i in range(methods)]
    for k in range(categories):
        category = f"category{k:02}"
        shared = scene(category, images, side)
        for i, method in enumerate(names):
            for seed in range(seeds):
                write_run(outputs, method, category, seed, *shared, skill=0.5 + 0.25 * i, full=full)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    for name, value in {"categories": 15, "methods": 4, "seeds": 3, "images": 115, "side": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--bare", action="store_true", help="no maps and no pictures")
    a = parser.parse_args()
    write_runs(a.outputs, a.categories, a.methods, a.seeds, a.images, a.side, not a.bare)


if __name__ == "__main__":
    main()
